"""Issues node certificates. Whom a certificate names is decided here, from the cluster's own objects."""

from __future__ import annotations

from minicommon.identity.authority import issue, node_subject
from minicommon.identity.requests import requested_key

from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Cluster, NodeRole


class Issuer:
    """Signs with the cluster's root, whose key is opened for each signature."""

    def __init__(self, sealer: ClusterSealer) -> None:
        self._sealer = sealer

    def node_certificate(
        self, cluster: Cluster, csr_pem: bytes, *, node_id: str, role: NodeRole, now_ns: int
    ) -> bytes:
        """A certificate, PEM, for the key in the request, with the lifetime of the cluster's settings.

        Raises InvalidArgumentError for a request that does not fit.
        """
        return issue(
            self._sealer.authority(cluster),
            node_subject(node_id, manager=role is NodeRole.MANAGER, cluster_id=cluster.id),
            public_key=requested_key(csr_pem),
            now_ns=now_ns,
            lifetime_ns=cluster.spec.certificate_lifetime_ns,
        )
