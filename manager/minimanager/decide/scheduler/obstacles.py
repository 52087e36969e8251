"""What stands between a task and a node, in words and numbers, and what would remove it.

The filters decide for whole columns of nodes; here one node is looked at closely, with the same questions in the same
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minicommon.grants import required
from minicommon.units import bytes_size

from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.demand import Demand
from minimanager.decide.scheduler.nodes import NodeColumns, fixed_host_ports, missing
from minimanager.domain.constraints import NODE_LABEL, Constraint, Operator, fact, unmet
from minimanager.domain.filters import node_name
from minimanager.domain.objects import Availability, GenericResource, NodeState, Platform, Task
from minimanager.domain.platforms import supports, text

EASY, MODERATE, HARD = 1, 3, 6
"""How much a user has to do about an obstacle: change a setting, give something up, or mend a machine."""

_Unit = tuple[Callable[[float], str], str]
"""Of an amount: how to write its number, and what it is a number of."""

_CPUS: _Unit = (lambda nano_cpus: f"{nano_cpus / 1e9:g}", "CPUs")
_MEMORY: _Unit = (bytes_size, "of memory")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """`filter` is the name of the scheduler's filter."""

    filter: str
    reason: str
    help: str
    effort: float


def obstacles(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> tuple[Obstacle, ...]:
    """All that keeps tasks like the demand's off the node, in the order of the filters; empty: nothing does."""
    found: list[Obstacle] = []
    for look in _LOOKS:
        found.extend(look(overlay, nodes, demand, row))
    return tuple(found)


def _ready(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    node, status = nodes.nodes[row], nodes.statuses[row]
    name = node_name(overlay.snapshot, node)
    if status is None:
        yield Obstacle("ready", "it has never reported", f"start mini-worker on {name}", HARD)
    elif status.state is not NodeState.READY:
        yield Obstacle("ready", f"it is {status.state.name.lower()}", f"bring {name} back", HARD)
    availability = node.spec.availability
    if availability is not Availability.ACTIVE:
        yield Obstacle(
            "ready",
            f"its availability is {availability.name.lower()}",
            f"minictl node update --availability active {name}",
            EASY if availability is Availability.PAUSE else MODERATE,
        )


def _resources(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    name = node_name(overlay.snapshot, nodes.nodes[row])
    needed = demand.task.spec.resources.reservations
    free_cpus, cpus = int(nodes.free_nano_cpus[row]), int(nodes.nano_cpus[row])
    if needed.nano_cpus > max(free_cpus, 0):
        yield _shortage(name, _CPUS, needed=needed.nano_cpus, free=max(free_cpus, 0), total=cpus)
    free_bytes, memory = int(nodes.free_memory_bytes[row]), int(nodes.memory_bytes[row])
    if needed.memory_bytes > max(free_bytes, 0):
        yield _shortage(name, _MEMORY, needed=needed.memory_bytes, free=max(free_bytes, 0), total=memory)
    for item in needed.generic:
        yield from _generic(nodes, row, name, item)


def _generic(nodes: NodeColumns, row: int, name: str, needed: GenericResource) -> Iterator[Obstacle]:
    kind, total = needed.kind, int(nodes.stock.total(needed.kind)[row])
    free = max(int(nodes.stock.free(kind)[row]), 0)
    if needed.count <= free:
        return
    if total:
        yield _shortage(
            name, (lambda number: f"{number:g}", kind), needed=needed.count, free=free, total=total
        )
    else:
        help = f"start mini-worker on {name} with --generic-resource {kind}={needed.count}, if it has them"
        yield Obstacle("resource", f"needs {needed.count} {kind}, it has none", help, HARD)


def _shortage(name: str, unit: _Unit, *, needed: int, free: int, total: int) -> Obstacle:
    """The less is missing, the less effort."""
    number, what = unit
    reason = f"needs {number(needed)} {what}, {number(free)} of {number(total)} are free"
    if needed > total:
        help = f"reserve at most {number(total)} {what}, all that {name} has"
        return Obstacle("resource", reason, help, MODERATE + 1)
    missing = needed - free
    help = f"free {number(missing)} {what} on {name}, or reserve less"
    return Obstacle("resource", reason, help, MODERATE + missing / total)


def _allowed(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    lacking = missing(required(demand.task.spec.container), nodes.described(row))
    if lacking:
        name = node_name(overlay.snapshot, nodes.nodes[row])
        reason = f"it does not allow {', '.join(lacking)}"
        yield Obstacle("allow", reason, f"start mini-worker on {name} with --allow {','.join(lacking)}", HARD)


def _encryption(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    if not demand.encrypted or nodes.encrypts(row):
        return
    name = node_name(overlay.snapshot, nodes.nodes[row])
    reason = f"it cannot encrypt, and network {demand.encrypted} is encrypted"
    help = f"install wireguard-go on {name}, or a kernel with WireGuard, and restart its mini-worker"
    yield Obstacle("encryption", reason, help, HARD)


def _platforms(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    platforms, described = demand.placement.platforms, nodes.described(row)
    if supports(described, platforms):
        return
    offered = ", ".join(sorted({text(platform) for platform in platforms}))
    own = text(Platform(described.os, described.architecture))
    service = demand.task.service_name
    help = f"give {service} an image that is made for {own}, too"
    yield Obstacle("platform", f"it is {own}, the image is for {offered}", help, HARD)


def _constraints(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    node, status = nodes.nodes[row], nodes.statuses[row]
    for constraint in unmet(demand.placement.constraints, node, status):
        found = fact(constraint.key, node, status)
        has = f"it has {found!r}" if found else "it has none"
        reason = f"constraint {constraint.text}: {has}"
        wanted = _label_for(constraint)
        if wanted:
            help = f"minictl node update --label-add '{wanted}' {node_name(overlay.snapshot, node)}"
            yield Obstacle("constraint", reason, help, EASY)
        else:
            help = f"minictl service update --constraint-rm '{constraint.text}' {demand.task.service_name}"
            yield Obstacle("constraint", reason, help, MODERATE)


def _label_for(constraint: Constraint) -> str:
    """The label that would satisfy the constraint, if it is that simple."""
    asks_for_value = constraint.operator in (Operator.IS, Operator.IN)
    if not asks_for_value or not constraint.key.startswith(NODE_LABEL):
        return ""
    return f"{constraint.key.removeprefix(NODE_LABEL)}={constraint.values[0]}"


def _host_ports(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    wanted = fixed_host_ports(demand.task)
    held = wanted & nodes.ports.get(row, set()) if wanted else set()
    for protocol, number in sorted(held):
        port = f"{number}/{protocol.name.lower()}"
        holder = next(
            (
                task.name
                for task in overlay.of_node(nodes.ids[row])
                if not overlay.finished(task) and (protocol, number) in fixed_host_ports(task)
            ),
            "another task",
        )
        name = node_name(overlay.snapshot, nodes.nodes[row])
        help = f"stop {holder} on {name}, or publish another port than {port}"
        yield Obstacle("host-port", f"port {port} is in use by {holder}", help, MODERATE)


def _max_replicas(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    most, present = demand.placement.max_replicas, int(demand.service[row])
    if most and present >= most:
        service = demand.task.service_name
        tasks = f"{present} task{'s' if present > 1 else ''}"
        yield Obstacle(
            "max-replicas",
            f"it has {tasks} of {service}, and at most {most} may be on a node",
            f"minictl service update --replicas-max-per-node {present + 1} {service}",
            EASY,
        )


def _neighbors(overlay: Overlay, nodes: NodeColumns, demand: Demand, row: int) -> Iterator[Obstacle]:
    service = demand.task.service_name
    for neighbor in demand.neighbors:
        if neighbor.allowed[row]:
            continue
        other = neighbor.name
        if neighbor.wanted:
            reason, flag = f"it has no task of {other}, which {service} wants to be with", "--affinity-rm"
        elif neighbor.own:
            reason, flag = (
                f"it has a task of {other}, which {service} wants to be apart from",
                "--anti-affinity-rm",
            )
        else:
            reason = f"it has a task of {other}, which wants to be apart from {service}"
            help = f"minictl service update --anti-affinity-rm {service} {other}"
            yield Obstacle("affinity", reason, help, MODERATE)
            continue
        yield Obstacle("affinity", reason, f"minictl service update {flag} {other} {service}", MODERATE)


_LOOKS = (
    _ready,
    _resources,
    _allowed,
    _encryption,
    _constraints,
    _platforms,
    _host_ports,
    _max_replicas,
    _neighbors,
)
"""In the order of the filters."""


def holder_of(overlay: Overlay, task: Task) -> str:
    """The name of the node that has the task."""
    node = overlay.snapshot.nodes.get(task.node_id)
    return node_name(overlay.snapshot, node) if node is not None else task.node_id
