"""The guards of the manager's listeners: who comes in where."""

from __future__ import annotations

from collections.abc import Collection

from minicommon.clock import Clock
from minicommon.rpc.gate import AnyoneGate, MemberGate
from minicommon.rpc.guard import Guard

from minimanager.store.cache import Cache


def control_guard(*, cluster_id: str, cache: Cache, clock: Clock) -> Guard:
    """For the control port and the unix socket: members and clients of this cluster, and root on this machine."""

    def removed() -> Collection[str]:
        cluster = cache.snapshot().cluster
        return cluster.removed_nodes if cluster else ()

    return Guard(MemberGate(cluster_id=cluster_id, removed=removed, clock=clock))


def join_guard() -> Guard:
    """For the join port, where nobody has a certificate yet."""
    return Guard(AnyoneGate())
