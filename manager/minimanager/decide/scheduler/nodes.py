"""The nodes as columns of numbers: what they have left and how many tasks they carry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.stock import Stock
from minimanager.decide.slots import host_ports, is_active
from minimanager.domain.constraints import fact, unmet
from minimanager.domain.objects import (
    Availability,
    GenericResource,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    Platform,
    PortProtocol,
    Task,
)
from minimanager.domain.platforms import supports

Column = NDArray[np.int64]
Mask = NDArray[np.bool_]
Share = NDArray[np.float64]
HostPort = tuple[PortProtocol, int]


@dataclass(slots=True)
class NodeColumns:
    """One row per node, in the order of ids, which breaks every tie."""

    ids: tuple[str, ...]
    rows: dict[str, int]
    nodes: tuple[Node, ...]
    statuses: tuple[NodeStatus | None, ...]
    available: Mask
    """Ready and active: may take new tasks."""
    nano_cpus: Column
    memory_bytes: Column
    free_nano_cpus: Column
    free_memory_bytes: Column
    tasks: Column
    """Tasks that are to run there, of all services."""
    stock: Stock
    """Generic resources."""
    ports: dict[int, set[HostPort]] = field(default_factory=dict)
    """Host-mode ports in use, by row."""
    repelled: dict[str, list[str]] = field(default_factory=dict)
    """By service name, the ids of the services that do not want to be on a node with it."""
    _suitable: dict[tuple[str, ...], Mask] = field(default_factory=dict)

    def suitable(self, constraints: tuple[str, ...]) -> Mask:
        """Which nodes satisfy all of the constraints."""
        found = self._suitable.get(constraints)
        if found is None:
            pairs = zip(self.nodes, self.statuses, strict=True)
            found = np.array([not unmet(constraints, *pair) for pair in pairs], dtype=np.bool_)
            self._suitable[constraints] = found
        return found

    def allowing(self, grants: tuple[str, ...]) -> Mask:
        """Which nodes allow their containers all of it."""
        return np.array([not missing(grants, self.described(row)) for row in range(len(self.ids))], np.bool_)

    def encrypting(self) -> Mask:
        """Which nodes can be on encrypted networks."""
        return np.array([self.encrypts(row) for row in range(len(self.ids))], np.bool_)

    def encrypts(self, row: int) -> bool:
        """Whether the node has told a key."""
        status = self.statuses[row]
        return status is not None and bool(status.encryption_key)

    def of_platforms(self, platforms: tuple[Platform, ...]) -> Mask:
        """Which nodes are of one of the platforms."""
        return np.array([supports(self.described(row), platforms) for row in range(len(self.ids))], np.bool_)

    def described(self, row: int) -> NodeDescription:
        """What the node says of itself; of one that has never reported, nothing."""
        status = self.statuses[row]
        return status.description if status is not None else NodeDescription()

    def branches(self, key: str) -> Column:
        """The nodes' branches in a spreading over `key`: those that have the same for it have the same number."""
        numbers: dict[str, int] = {}
        found = (fact(key, *pair) for pair in zip(self.nodes, self.statuses, strict=True))
        return np.array([numbers.setdefault(value, len(numbers)) for value in found], dtype=np.int64)

    def fullness(self) -> Share:
        """How much of each node is reserved, 0 to 1: of its processors or its memory, whichever is more."""
        shares = (
            1 - free / np.maximum(total, 1)
            for total, free in (
                (self.nano_cpus, self.free_nano_cpus),
                (self.memory_bytes, self.free_memory_bytes),
            )
        )
        return np.maximum(*shares)

    def hold(self, row: int, task: Task) -> None:
        """Count a task that the node holds already."""
        reserved = task.spec.resources.reservations
        self.free_nano_cpus[row] -= reserved.nano_cpus
        self.free_memory_bytes[row] -= reserved.memory_bytes
        self.tasks[row] += is_active(task)
        self.stock.hold(row, task.resources)
        self._use_ports(row, task)

    def place(self, placed: Column, like: Task) -> None:
        """Count new tasks that are all alike: so many on each node."""
        reserved = like.spec.resources.reservations
        self.free_nano_cpus -= placed * reserved.nano_cpus
        self.free_memory_bytes -= placed * reserved.memory_bytes
        self.tasks += placed
        self.stock.place(placed, reserved.generic)
        for row in np.flatnonzero(placed).tolist() if like.ports else ():
            self._use_ports(row, like)

    def take(self, row: int, task: Task) -> tuple[GenericResource, ...]:
        """Which of the node's generic resources a task gets that has been placed there."""
        return self.stock.take(row, task.spec.resources.reservations.generic)

    def _use_ports(self, row: int, task: Task) -> None:
        if task.ports and (wanted := fixed_host_ports(task)):
            self.ports.setdefault(row, set()).update(wanted)


def missing(grants: tuple[str, ...], description: NodeDescription) -> tuple[str, ...]:
    """What of it the node does not allow."""
    return tuple(grant for grant in grants if grant not in description.allowed)


def fixed_host_ports(task: Task) -> frozenset[HostPort]:
    """The ports of the node itself that the task needs; those that the node may choose are not among them."""
    return frozenset(
        (port.protocol, port.published_port) for port in host_ports(task.ports) if port.published_port
    )


def columns(overlay: Overlay) -> NodeColumns:
    """The nodes as they are, with every task that has not ended."""
    snapshot = overlay.snapshot
    ids = tuple(sorted(snapshot.nodes))
    table = NodeColumns(
        ids=ids,
        rows={node_id: row for row, node_id in enumerate(ids)},
        nodes=tuple(snapshot.nodes[node_id] for node_id in ids),
        statuses=tuple(snapshot.node_statuses.get(node_id) for node_id in ids),
        available=np.zeros(len(ids), dtype=np.bool_),
        nano_cpus=np.zeros(len(ids), dtype=np.int64),
        memory_bytes=np.zeros(len(ids), dtype=np.int64),
        free_nano_cpus=np.zeros(len(ids), dtype=np.int64),
        free_memory_bytes=np.zeros(len(ids), dtype=np.int64),
        tasks=np.zeros(len(ids), dtype=np.int64),
        stock=Stock(len(ids)),
    )
    for service in snapshot.services.values():
        for name in service.spec.placement.anti_affinity:
            table.repelled.setdefault(name, []).append(service.id)
    for row, node_id in enumerate(ids):
        status = snapshot.node_statuses.get(node_id)
        if status is not None:
            active = snapshot.nodes[node_id].spec.availability is Availability.ACTIVE
            table.available[row] = active and status.state is NodeState.READY
            resources = status.description.resources
            table.nano_cpus[row] = table.free_nano_cpus[row] = resources.nano_cpus
            table.memory_bytes[row] = table.free_memory_bytes[row] = resources.memory_bytes
            table.stock.add(row, status.description.generic_resources)
        for task in overlay.of_node(node_id):
            if not overlay.finished(task):
                table.hold(row, task)
    return table
