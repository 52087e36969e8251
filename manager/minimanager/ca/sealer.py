"""What of the stored objects only managers may read, and what it is sealed for."""

from __future__ import annotations

from typing import Final, Protocol

from minicommon.identity.authority import Authority
from minicommon.identity.tokens import new_token

from minimanager.domain.objects import Cluster, JoinToken, NodeRole

ROOT_KEY: Final = "root-key"
NEXT_ROOT_KEY: Final = "next-root-key"
UNLOCK_KEY: Final = "unlock-key"
TOKEN: Final = {NodeRole.WORKER: "join-token/worker", NodeRole.MANAGER: "join-token/manager"}
"""Purposes: a value that was sealed for one cannot be opened as another."""


REGISTRY_AUTH: Final = "registry-auth/"
"""Followed by the service's id."""


class Envelope(Protocol):
    """Authenticated encryption with the cluster key; `minimanager.store.envelope` has it."""

    def seal(self, purpose: str, plaintext: bytes) -> bytes:
        """The sealed value."""

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """The plain value. Raises FailedPreconditionError when it was not sealed so, or was changed."""


class ClusterSealer:
    """Seals and opens fields of the cluster object, and a service's way into its registry."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def root_key(self, pem: bytes) -> bytes:
        """The root's private key, sealed."""
        return self._envelope.seal(ROOT_KEY, pem)

    def next_root_key(self, pem: bytes) -> bytes:
        """The private key of the root that will be, sealed."""
        return self._envelope.seal(NEXT_ROOT_KEY, pem)

    def authority(self, cluster: Cluster) -> Authority:
        """The root that signs, with its key: while the root changes, the new one."""
        rotation = cluster.root_rotation
        if rotation.active:
            return Authority(
                rotation.root_ca_pem, self._envelope.open(NEXT_ROOT_KEY, rotation.sealed_root_key)
            )
        return self.present_authority(cluster)

    def present_authority(self, cluster: Cluster) -> Authority:
        """The root that new nodes know the cluster by, with its key."""
        return Authority(cluster.root_ca_pem, self._envelope.open(ROOT_KEY, cluster.sealed_root_key))

    def seal_registry_auth(self, service_id: str, auth: bytes) -> bytes:
        """How nodes log in to the registry of this service's image, sealed."""
        return self._envelope.seal(REGISTRY_AUTH + service_id, auth)

    def open_registry_auth(self, service_id: str, sealed: bytes) -> bytes:
        """Raises FailedPreconditionError when it was sealed for another service, or with another key."""
        return self._envelope.open(REGISTRY_AUTH + service_id, sealed)

    def unlock_key(self, key: bytes) -> bytes:
        """The key that managers need after a restart, sealed."""
        return self._envelope.seal(UNLOCK_KEY, key)

    def open_former_unlock_key(self, cluster: Cluster) -> bytes:
        """The one that opens managers, too, until the present one is confirmed; empty: there is none."""
        former = cluster.sealed_former_unlock_key
        return self._envelope.open(UNLOCK_KEY, former) if former else b""

    def open_unlock_key(self, cluster: Cluster) -> bytes:
        """That key; empty when managers are not locked."""
        return (
            self._envelope.open(UNLOCK_KEY, cluster.sealed_unlock_key) if cluster.sealed_unlock_key else b""
        )

    def join_token(self, role: NodeRole, root_ca_pem: bytes, *, expires_at_ns: int = 0) -> JoinToken:
        """A new token for nodes of this role, sealed; 0: it never expires, as Swarm's."""
        text = new_token(root_ca_pem).text
        return JoinToken(self._envelope.seal(TOKEN[role], text.encode()), expires_at_ns)

    def token_text(self, role: NodeRole, cluster: Cluster) -> str:
        """The text of the cluster's token for this role."""
        return self._envelope.open(TOKEN[role], token_of(cluster, role).sealed).decode()


def token_of(cluster: Cluster, role: NodeRole) -> JoinToken:
    """The cluster's token for this role, still sealed."""
    return cluster.manager_token if role is NodeRole.MANAGER else cluster.worker_token
