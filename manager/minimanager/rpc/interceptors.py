"""The guards of the manager's listeners: who comes in where."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from minicommon.clock import Clock
from minicommon.rpc.audit import Journal
from minicommon.rpc.gate import AnyoneGate, MemberGate
from minicommon.rpc.guard import Guard
from minicommon.rpc.limits import CallLimits

from minimanager.domain.objects import ClientCertificate, RemovedNode
from minimanager.store.cache import Cache
from minimanager.store.keys import Kind

CONTROL_LIMITS = CallLimits()
"""Of one client on the control port, known by its certificate."""

JOIN_LIMITS = CallLimits(per_second=20, burst=1000, open=200)
"""Of one address on the join port: a certificate costs a signature, and many nodes may come from behind one NAT."""


def control_guard(
    *,
    cluster_id: str,
    cache: Cache,
    clock: Clock,
    journal: Journal | None = None,
    limits: CallLimits | None = CONTROL_LIMITS,
) -> Guard:
    """For the control port and the unix socket: members and clients of this cluster, and root on this machine."""
    refused = Refused(cache)
    gate = MemberGate(cluster_id=cluster_id, removed=refused.nodes, revoked=refused.clients, clock=clock)
    return Guard(gate, journal=journal, limits=limits)


async def end_refused(guard: Guard, cache: Cache) -> None:
    """End the open streams of removed nodes and revoked certificates; run it for as long as the manager lives."""
    with cache.subscribe() as changes:
        async for change_set in changes:
            if any(change.kind in (Kind.CLUSTER, Kind.CLIENT) for change in change_set.changes):
                guard.recheck()


class Refused:
    """Whose certificates the cluster refuses before they expire, as of the cache; computed when that changes."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._removed: tuple[RemovedNode, ...] = ()
        self._nodes: Collection[str] = frozenset()
        self._certificates: Mapping[str, ClientCertificate] = {}
        self._clients: Collection[str] = frozenset()

    def nodes(self) -> Collection[str]:
        """Ids of removed nodes."""
        cluster = self._cache.snapshot().cluster
        removed = cluster.removed_nodes if cluster else ()
        if removed is not self._removed:
            self._removed, self._nodes = removed, frozenset(node.id for node in removed)
        return self._nodes

    def clients(self) -> Collection[str]:
        """Ids of revoked client certificates."""
        certificates = self._cache.snapshot().clients
        if certificates is not self._certificates:
            self._certificates = certificates
            self._clients = frozenset(each.id for each in certificates.values() if each.revoked_at_ns)
        return self._clients


def join_guard(journal: Journal | None = None, limits: CallLimits | None = JOIN_LIMITS) -> Guard:
    """For the join port, where nobody has a certificate yet."""
    return Guard(AnyoneGate(), journal=journal, limits=limits)
