"""What the cluster forgets, and what a change of its root still waits for. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from minimanager.domain.objects import HOUR, ClientCertificate, Cluster, IssuedToken, RemovedNode
from minimanager.domain.snapshot import Snapshot

DEAD_TOKEN_NS = 7 * 24 * HOUR
"""A token that lets nobody in any more is shown, and refused with its reason, for a week."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is to be forgotten now. `wake_at_ns`: when there will be more; None: nothing is known to come."""

    removed_nodes: tuple[RemovedNode, ...] | None = None
    """The ones that stay; None: all of them."""
    tokens: tuple[IssuedToken, ...] = ()
    clients: tuple[ClientCertificate, ...] = ()
    wake_at_ns: int | None = None


def upkeep(snapshot: Snapshot, now_ns: int) -> Upkeep:
    """Removed nodes and client certificates go when their certificates are void by themselves, tokens a week later."""
    removed = snapshot.cluster.removed_nodes if snapshot.cluster else ()
    kept = tuple(node for node in removed if node.expires_at_ns > now_ns)
    tokens = {token.id: dead_at(token) for token in snapshot.tokens.values()}
    clients = {client.id: client.expires_at_ns for client in snapshot.clients.values()}
    moments = [*(node.expires_at_ns for node in kept), *tokens.values(), *clients.values()]
    return Upkeep(
        removed_nodes=kept if len(kept) < len(removed) else None,
        tokens=tuple(snapshot.tokens[key] for key in _past(tokens.items(), now_ns)),
        clients=tuple(snapshot.clients[key] for key in _past(clients.items(), now_ns)),
        wake_at_ns=min((moment for moment in moments if moment and moment > now_ns), default=None),
    )


def _past(moments: Iterable[tuple[str, int | None]], now_ns: int) -> list[str]:
    return [key for key, moment in moments if moment and moment <= now_ns]


def dead_at(token: IssuedToken) -> int | None:
    """When a token is forgotten; None: it still lets nodes in, and will."""
    ends = [moment for moment in (token.revoked_at_ns, token.expires_at_ns) if moment]
    if token.max_uses and token.uses >= token.max_uses:
        ends.append(token.meta.updated_at_ns)
    return min(ends) + DEAD_TOKEN_NS if ends else None


def roots_digest(cluster: Cluster) -> str:
    """SHA-256, hex, of the roots that members should trust: both while the root changes."""
    return hashlib.sha256(cluster.root_ca_pem + cluster.root_rotation.root_ca_pem).hexdigest()


@dataclass(frozen=True, slots=True)
class RootProgress:
    """Ids of the nodes that a change of the root waits for: to have a certificate of it, and to trust it."""

    nodes: int
    certificates: tuple[str, ...]
    trust: tuple[str, ...]

    @property
    def waiting(self) -> tuple[str, ...]:
        return tuple(sorted({*self.certificates, *self.trust}))


def root_progress(snapshot: Snapshot, cluster: Cluster, issuer: str, now_ns: int) -> RootProgress:
    """How far the nodes are from what the cluster wants. A node whose certificate has expired has to join anew anyway.

    `issuer` identifies the key that signs.
    """
    wanted = roots_digest(cluster)
    nodes = [
        node
        for node in snapshot.nodes.values()
        if not node.certificate_expires_at_ns or node.certificate_expires_at_ns > now_ns
    ]
    statuses = {node.id: snapshot.node_statuses.get(node.id) for node in nodes}
    return RootProgress(
        nodes=len(nodes),
        certificates=tuple(
            key for key, status in statuses.items() if status is None or status.certificate_issuer != issuer
        ),
        trust=tuple(
            key for key, status in statuses.items() if status is None or status.trusted_roots != wanted
        ),
    )


def with_next_root(cluster: Cluster, *, sealed_root_key: bytes, now_ns: int) -> Cluster:
    """The cluster after its root has changed; its join tokens are to be replaced, too."""
    return replace(
        cluster,
        root_ca_pem=cluster.root_rotation.root_ca_pem,
        sealed_root_key=sealed_root_key,
        root_rotation=type(cluster.root_rotation)(),
        meta=replace(cluster.meta, updated_at_ns=now_ns),
    )
