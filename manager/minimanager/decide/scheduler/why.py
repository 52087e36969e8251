"""Why a task is where it is, and what would help: what `task why` shows.

A task that waits for a node is asked about at every node. Others wait for an address, for a delay, for the end of
their predecessor, for their node, or for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.errors import ResourceExhaustedError
from minicommon.grants import required
from minicommon.units import format_duration

from minimanager.decide.dependencies import missing_dependencies
from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.demand import demand_of
from minimanager.decide.scheduler.filters import Refusal, explain
from minimanager.decide.scheduler.nodes import columns
from minimanager.decide.scheduler.obstacles import Obstacle, holder_of, obstacles
from minimanager.decide.slots import is_active
from minimanager.domain.filters import node_name
from minimanager.domain.leases import task_pool
from minimanager.domain.objects import SECOND, Task, TaskState
from minimanager.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What keeps a task off a node, at least one thing, in the order of the filters."""

    node_id: str
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    summary: str
    refusals: tuple[NodeAnswer, ...] = ()
    """Of a task that waits for a node; a node that could take it is not among them."""
    help: tuple[str, ...] = ()
    """The smallest change that would let the task run: everything that has to be done."""


def why(snapshot: Snapshot, task: Task, now_ns: int) -> Answer:
    """Why `task`, which `snapshot` has, is in its state."""
    overlay = Overlay(snapshot, now_ns, _no_ids)
    state = overlay.state(task)
    if overlay.finished(task):
        return Answer(f"{task.name} has ended: {_told(snapshot, task) or state.name.lower()}")
    if not is_active(task):
        return Answer(f"{task.name} is to stop and has not stopped yet; it is {state.name.lower()}")
    if task.node_id:
        return _placed(overlay, task)
    if state is TaskState.NEW:
        return _unaddressed(snapshot, task)
    return _unplaced(overlay, task)


def _no_ids() -> str:
    raise AssertionError("explaining makes no tasks")


def _told(snapshot: Snapshot, task: Task) -> str:
    status = snapshot.statuses.get(task.id)
    told = (status.error or status.message) if status is not None else ""
    return told or task.error or task.message


def _unaddressed(snapshot: Snapshot, task: Task) -> Answer:
    if not task.error:
        return Answer(f"{task.name} is new: the leader has not looked at it yet")
    help = tuple(
        f"free an address of network {name}, or make one with a larger subnet and update {task.service_name} to it"
        for name in _full_networks(snapshot, task)
    )
    return Answer(f"{task.name} waits for an address: {task.error}", help=help)


def _full_networks(snapshot: Snapshot, task: Task) -> list[str]:
    names = []
    for use in task.spec.networks:
        if (network := snapshot.networks.get(use.network)) is not None:
            try:
                task_pool(snapshot, network).ensure_free()
            except ResourceExhaustedError:
                names.append(network.spec.name)
    return names


def _placed(overlay: Overlay, task: Task) -> Answer:
    node, state = holder_of(overlay, task), overlay.state(task)
    if overlay.down(task.node_id):
        return Answer(f"{task.name} is on {node}, which is down", help=(f"bring {node} back",))
    if task.desired_state is TaskState.READY:
        if task.not_before_ns > overlay.now_ns:
            delay = _delay(overlay, task)
            return Answer(f"{task.name} is to start on {node} when {delay}")
        return Answer(f"{task.name} is to start on {node} when the task before it has stopped")
    told = _told(overlay.snapshot, task)
    return Answer(f"{task.name} is {state.name.lower()} on {node}" + (f": {told}" if told else ""))


def _delay(overlay: Overlay, task: Task) -> str:
    """What is left of it, in whole seconds, and why the task before it has ended."""
    left_ns = max(task.not_before_ns - overlay.now_ns, 0)
    text = f"its restart delay is over, in {format_duration(-(-left_ns // SECOND) * SECOND)}"
    before = [
        other
        for other in overlay.of_service(task.service_id)
        if (other.slot, other.bound_node_id) == (task.slot, task.bound_node_id)
        and other.meta.created_at_ns < task.meta.created_at_ns
        and overlay.finished(other)
    ]
    if not before:
        return text
    last = max(before, key=lambda other: other.meta.created_at_ns)
    status = overlay.snapshot.statuses.get(last.id)
    error = (status.error if status is not None else "") or last.error
    return f"{text}; the last try ended: {error}" if error else text


def _unplaced(overlay: Overlay, task: Task) -> Answer:
    if task.held and task.desired_state is TaskState.READY:
        return Answer(f"{task.name} gets a node when {_delay(overlay, task)}")
    service = overlay.snapshot.services.get(task.service_id)
    if service is not None and (missing := missing_dependencies(overlay, service)):
        return Answer(
            f"{task.name} is pending: it {'; '.join(missing.values())}",
            help=tuple(f"minictl service ps {name}" for name in missing),
        )
    nodes = columns(overlay)
    demand = demand_of(overlay, nodes, task)
    refusals = []
    fit = []
    for row, node_id in enumerate(nodes.ids):
        if task.bound_node_id not in ("", node_id):
            continue
        found = obstacles(overlay, nodes, demand, row)
        if found:
            refusals.append(NodeAnswer(node_id, found))
        else:
            fit.append(node_name(overlay.snapshot, nodes.nodes[row]))
    if fit:
        summary = f"{task.name} can go to {', '.join(fit)}; the leader has not placed it yet"
        return Answer(summary, tuple(refusals))
    refused = [Refusal(each.node_id, each.obstacles[0].filter) for each in refusals]
    reason = explain(refused, required(task.spec.container))
    return Answer(f"{task.name} is pending: {reason}", tuple(refusals), _help(overlay.snapshot, refusals))


def _help(snapshot: Snapshot, refusals: list[NodeAnswer]) -> tuple[str, ...]:
    """What has to be done about the node that asks for the least; of several the first by name."""
    if not refusals:
        return ("add a node: the cluster has none",)

    def effort(answer: NodeAnswer) -> tuple[float, str]:
        name = node_name(snapshot, snapshot.nodes[answer.node_id])
        return sum(obstacle.effort for obstacle in answer.obstacles), name

    return tuple(obstacle.help for obstacle in min(refusals, key=effort).obstacles)
