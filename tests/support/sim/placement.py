"""Whether a decision puts tasks only where they may be: asked of its own snapshot, one task after the other.

Deliberately not how the scheduler does it.
"""

from __future__ import annotations

from collections.abc import Iterator

from minimanager.decide.actions import CreateTask, Decision, DeleteTask, UpdateTask
from minimanager.decide.slots import is_active
from minimanager.domain.constraints import unmet
from minimanager.domain.objects import Availability, NodeState, PublishMode, Task
from minimanager.domain.snapshot import Snapshot


def forbidden(snapshot: Snapshot, decision: Decision) -> Iterator[str]:
    """What is wrong with the decision's placements."""
    placed = [
        action.task
        for action in decision.actions
        if isinstance(action, CreateTask | UpdateTask) and _is_placement(snapshot, action.task)
    ]
    if not placed:
        return
    after = dict(snapshot.tasks)
    for action in decision.actions:
        match action:
            case CreateTask(task) | UpdateTask(task):
                after[task.id] = task
            case DeleteTask(task_id):
                after.pop(task_id, None)
    on_node: dict[str, list[Task]] = {}
    for task in after.values():
        if task.node_id and not snapshot.state(task).finished:
            on_node.setdefault(task.node_id, []).append(task)
    for task in placed:
        reason = _objection(snapshot, task, on_node.get(task.node_id, []))
        if reason:
            yield f"task {task.id} of {task.name} was given node {task.node_id}, {reason}"


def _is_placement(snapshot: Snapshot, task: Task) -> bool:
    old = snapshot.tasks.get(task.id)
    return bool(task.node_id) and (old is None or not old.node_id)


def _objection(snapshot: Snapshot, task: Task, here: list[Task]) -> str:
    node, status = snapshot.nodes.get(task.node_id), snapshot.node_statuses.get(task.node_id)
    placement = snapshot.services[task.service_id].spec.placement
    if node is None or status is None or status.state is not NodeState.READY:
        return "which is not ready"
    if node.spec.availability is not Availability.ACTIVE:
        return f"which is {node.spec.availability.name.lower()}"
    if task.bound_node_id not in ("", node.id):
        return f"but belongs to {task.bound_node_id}"
    if unmet(placement.constraints, node, status):
        return f"which does not satisfy {placement.constraints}"
    known = status.description.resources
    if task.spec.resources.reservations.nano_cpus and known.nano_cpus < sum(
        each.spec.resources.reservations.nano_cpus for each in here
    ):
        return "which has not enough CPUs"
    if task.spec.resources.reservations.memory_bytes and known.memory_bytes < sum(
        each.spec.resources.reservations.memory_bytes for each in here
    ):
        return "which has not enough memory"
    if _ports(task) & {port for other in here if other.id != task.id for port in _ports(other)}:
        return "where its port is taken"
    same = sum(other.service_id == task.service_id and is_active(other) for other in here)
    if placement.max_replicas and same > placement.max_replicas:
        return f"which has {same} of its service, {placement.max_replicas} are allowed"
    return ""


def _ports(task: Task) -> set[tuple[int, int]]:
    return {
        (port.protocol, port.published_port)
        for port in task.ports
        if port.publish_mode is PublishMode.HOST and port.published_port
    }
