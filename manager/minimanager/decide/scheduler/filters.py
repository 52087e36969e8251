"""Which nodes can take a task, in the order in which the questions are asked, and why the others cannot.

Each filter says how many tasks of a kind a node has room for; the first that says none is the node's reason. The
texts are Swarm's (swarmkit `manager/scheduler/filter.go`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from minicommon.grants import required

from minimanager.decide.scheduler.demand import Demand
from minimanager.decide.scheduler.nodes import Column, NodeColumns, fixed_host_ports

UNLIMITED = np.iinfo(np.int64).max // 4
"""More tasks than any group has; far enough from the end of the type to be added up."""

NO_NODE = "no suitable node"


@dataclass(frozen=True, slots=True)
class Filter:
    name: str
    room: Callable[[NodeColumns, Demand], Column]
    """How many more tasks like this each node can take, as far as this filter is concerned."""
    one: str
    """The reason, for one node."""
    many: str
    """The reason, for `{}` nodes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one node cannot take a task."""

    node_id: str
    filter: str


def _ready(nodes: NodeColumns, demand: Demand) -> Column:
    return np.where(nodes.available, UNLIMITED, 0)


def _resources(nodes: NodeColumns, demand: Demand) -> Column:
    reserved = demand.task.spec.resources.reservations
    room = np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    for free, needed in (
        (nodes.free_nano_cpus, reserved.nano_cpus),
        (nodes.free_memory_bytes, reserved.memory_bytes),
    ):
        if needed > 0:
            room = np.minimum(room, np.maximum(free, 0) // needed)
    for item in reserved.generic:
        room = np.minimum(room, np.maximum(nodes.stock.free(item.kind), 0) // item.count)
    return room


def _allowed(nodes: NodeColumns, demand: Demand) -> Column:
    grants = required(demand.task.spec.container)
    if not grants:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    return np.where(nodes.allowing(grants), UNLIMITED, 0)


def _encryption(nodes: NodeColumns, demand: Demand) -> Column:
    if not demand.encrypted:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    return np.where(nodes.encrypting(), UNLIMITED, 0)


def _platforms(nodes: NodeColumns, demand: Demand) -> Column:
    platforms = demand.placement.platforms
    if not platforms:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    return np.where(nodes.of_platforms(platforms), UNLIMITED, 0)


def _constraints(nodes: NodeColumns, demand: Demand) -> Column:
    if not demand.placement.constraints:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    return np.where(nodes.suitable(demand.placement.constraints), UNLIMITED, 0)


def _host_ports(nodes: NodeColumns, demand: Demand) -> Column:
    wanted = fixed_host_ports(demand.task)
    if not wanted:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    room = np.ones(len(nodes.ids), dtype=np.int64)
    for row, used in nodes.ports.items():
        if wanted & used:
            room[row] = 0
    return room


def _max_replicas(nodes: NodeColumns, demand: Demand) -> Column:
    most = demand.placement.max_replicas
    if not most:
        return np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    return np.maximum(most - demand.service, 0)


def _neighbors(nodes: NodeColumns, demand: Demand) -> Column:
    allowed = np.ones(len(nodes.ids), dtype=np.bool_)
    for neighbor in demand.neighbors:
        allowed &= neighbor.allowed
    return np.where(allowed, UNLIMITED, 0)


PIPELINE: tuple[Filter, ...] = (
    Filter("ready", _ready, "1 node not available for new tasks", "{} nodes not available for new tasks"),
    Filter("resource", _resources, "insufficient resources on 1 node", "insufficient resources on {} nodes"),
    Filter("allow", _allowed, "{grants} not allowed on 1 node", "{grants} not allowed on {} nodes"),
    Filter("encryption", _encryption, "no encryption on 1 node", "no encryption on {} nodes"),
    Filter(
        "constraint",
        _constraints,
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {} nodes",
    ),
    Filter("platform", _platforms, "unsupported platform on 1 node", "unsupported platform on {} nodes"),
    Filter(
        "host-port",
        _host_ports,
        "host-mode port already in use on 1 node",
        "host-mode port already in use on {} nodes",
    ),
    Filter(
        "max-replicas",
        _max_replicas,
        "max replicas per node limit exceed",
        "max replicas per node limit exceed",
    ),
    Filter(
        "affinity",
        _neighbors,
        "affinity to other services not satisfied on 1 node",
        "affinity to other services not satisfied on {} nodes",
    ),
)


def capacity(nodes: NodeColumns, demand: Demand) -> Column:
    """How many tasks like this each node can still take."""
    room = np.full(len(nodes.ids), UNLIMITED, dtype=np.int64)
    for each in PIPELINE:
        room = np.minimum(room, each.room(nodes, demand))
    return room


def refusals(nodes: NodeColumns, demand: Demand) -> tuple[Refusal, ...]:
    """For each node that has no room for the task, the first filter that says so."""
    reasons: dict[int, str] = {}
    for each in PIPELINE:
        for row in np.flatnonzero(each.room(nodes, demand) == 0).tolist():
            reasons.setdefault(row, each.name)
    return tuple(Refusal(nodes.ids[row], reasons[row]) for row in sorted(reasons))


def explain(refused: Sequence[Refusal], grants: Iterable[str] = ()) -> str:
    """The task's error: `no suitable node (insufficient resources on 2 nodes; ...)`, the most frequent reason first.

    `grants` are those that the task needs, which are named where nodes do not allow them.
    """
    counts = Counter(refusal.filter for refusal in refused)
    ranked = sorted((each for each in PIPELINE if counts[each.name]), key=lambda each: -counts[each.name])
    reasons = [_reason(each, counts[each.name], ", ".join(grants)) for each in ranked]
    return f"{NO_NODE} ({'; '.join(reasons)})" if reasons else NO_NODE


def _reason(refusing: Filter, count: int, grants: str) -> str:
    return (refusing.one if count == 1 else refusing.many).format(count, grants=grants)
