"""Issues certificates. Whom a certificate names is decided here, from the cluster's own objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from minicommon import base36
from minicommon.clock import SECOND
from minicommon.identity.authority import (
    SHORTEST_LIFETIME_NS,
    client_subject,
    issue,
    key_identifier,
    node_subject,
)
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import requested_key

from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import ClientCertificate, ClientRole, Cluster, NodeRole

SHORTEST_CLIENT_NS: Final = 60 * SECOND
"""A certificate of a minute is of use to a script."""

CALLERS: Final = {
    ClientRole.VIEWER: Caller.VIEWER,
    ClientRole.OPERATOR: Caller.OPERATOR,
    ClientRole.ADMIN: Caller.ADMIN,
}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, followed by the cross-signed root while the root changes, as PEM."""

    chain_pem: bytes
    expires_at_ns: int


class Issuer:
    """Signs with the cluster's root, whose key is opened for each signature; with the new one while it changes.

    `lifetime_ns`, when it is not 0, is that of every node certificate, whatever the cluster says: tests see renewals.
    """

    def __init__(self, sealer: ClusterSealer, *, lifetime_ns: int = 0) -> None:
        self._sealer = sealer
        self._lifetime_ns = lifetime_ns

    def node_certificate(
        self, cluster: Cluster, csr_pem: bytes, *, node_id: str, role: NodeRole, now_ns: int
    ) -> Issued:
        """A certificate for the key in the request, with the lifetime of the cluster's settings.

        Raises InvalidArgumentError for a request that does not fit.
        """
        certificate = issue(
            self._sealer.authority(cluster),
            node_subject(node_id, manager=role is NodeRole.MANAGER, cluster_id=cluster.id),
            public_key=requested_key(csr_pem),
            now_ns=now_ns,
            lifetime_ns=self._lifetime_ns or cluster.spec.certificate_lifetime_ns,
            shortest_ns=self._lifetime_ns or SHORTEST_LIFETIME_NS,
        )
        return _issued(cluster, certificate)

    def client_certificate(
        self,
        cluster: Cluster,
        csr_pem: bytes,
        client: ClientCertificate,
        *,
        now_ns: int,
        lifetime_ns: int,
    ) -> Issued:
        """A certificate for the person or program that `client` names; its id is the serial number."""
        certificate = issue(
            self._sealer.authority(cluster),
            client_subject(client.name, role=CALLERS[client.role], cluster_id=cluster.id),
            public_key=requested_key(csr_pem),
            now_ns=now_ns,
            lifetime_ns=lifetime_ns,
            shortest_ns=SHORTEST_CLIENT_NS,
            serial=base36.decode(client.id),
        )
        return _issued(cluster, certificate)


def _issued(cluster: Cluster, certificate_pem: bytes) -> Issued:
    expires_at_ns = identity_of(certificate_pem).not_after_ns
    return Issued(certificate_pem + cluster.root_rotation.cross_signed_pem, expires_at_ns)


def trusted_roots(cluster: Cluster) -> bytes:
    """PEM of the roots that members trust: the old one and the new one while the root changes."""
    return cluster.root_ca_pem + cluster.root_rotation.root_ca_pem


def signing_root(cluster: Cluster) -> bytes:
    """PEM of the root that signs now."""
    return cluster.root_rotation.root_ca_pem or cluster.root_ca_pem


def signing_key(cluster: Cluster) -> str:
    """Identifier, in hex, of the key that signs now."""
    return key_identifier(signing_root(cluster))
