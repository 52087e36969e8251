"""Global services and global jobs: one task on each node that may have one. The node is the task's place.

A task never moves. When its node is to be emptied, or no longer satisfies the constraints, it stops, and comes back
with the node; a node that does not answer keeps its task, for nobody else could have it. A paused node keeps its task
and gets no other.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.global_nodes import takes
from minimanager.decide.overlay import Overlay
from minimanager.decide.rollout import Replacing
from minimanager.decide.slots import Slot, is_outdated
from minimanager.decide.tries import (
    UNSUITED,
    has_completed,
    keep_one,
    new_task,
    refill,
    remove,
    replace_newest,
)
from minimanager.domain.objects import Service, Task, TaskState

_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)
"""How a task ends that nobody has stopped."""


def orchestrate(overlay: Overlay, service: Service) -> None:
    """Stop what may not stay, and give a task to each node that has none and may have one."""
    slots = overlay.slots(service.id)
    present = [slot for slot in slots.values() if not overlay.lost(slot.node_id)]
    replacing = None if service.spec.mode.is_job else Replacing(overlay, service, present)
    empty = [slot for slot in slots.values() if not _keeps(overlay, service, slot, replacing)]
    vacated = _vacated(overlay, service) if service.spec.mode.is_job else frozenset()
    for slot in empty:
        if not overlay.lost(slot.node_id) and slot.node_id not in vacated:
            _renew(overlay, service if replacing is None else replacing.template(slot), slot)
    taken = {slot.node_id for slot in slots.values()} | vacated
    for node_id in sorted(overlay.snapshot.nodes):
        if node_id not in taken and takes(overlay, service, node_id):
            if not overlay.has_room():
                return
            overlay.create(new_task(overlay, service, node_id=node_id))


def _keeps(overlay: Overlay, service: Service, slot: Slot, replacing: Replacing | None) -> bool:
    """Stop what may not stay. Whether the node needs no new task."""
    if overlay.lost(slot.node_id):
        remove(overlay, slot)
        return False
    return _retire(overlay, service, slot, replacing)


def _vacated(overlay: Overlay, service: Service) -> frozenset[str]:
    """The nodes on which a task of an earlier iteration of the job still stops: the new one begins after it."""
    return frozenset(
        task.node_id
        for task in overlay.of_service(service.id)
        if task.desired_state is TaskState.REMOVE
        and task.node_id
        and not overlay.finished(task)
        and not overlay.down(task.node_id)
    )


def _retire(overlay: Overlay, service: Service, slot: Slot, replacing: Replacing | None) -> bool:
    """Ask the tasks that cannot stay to stop. Whether the node needs no new task."""
    is_job = service.spec.mode.is_job
    fit: list[Task] = []
    for task in slot.active:
        if overlay.finished(task):
            if not (is_job and overlay.state(task) is TaskState.COMPLETE):
                overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif is_job and is_outdated(task, service):
            overlay.put(replace(task, desired_state=TaskState.REMOVE))
        elif overlay.draining(slot.node_id) or (replacing is not None and replacing.retires(slot, task)):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif not overlay.suits(service, slot.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN, error=UNSUITED))
        else:
            fit.append(task)
    keep_one(overlay, service, fit)
    if replacing is not None:
        return replacing.needs_nothing(slot, fit)
    return bool(fit) or (is_job and has_completed(overlay, service, slot))


def _renew(overlay: Overlay, service: Service, slot: Slot) -> None:
    """A new task for the node. One that was stopped by us, and not by itself, needs no leave of its policy."""
    if not takes(overlay, service, slot.node_id) or not overlay.has_room():
        return
    if overlay.state(slot.newest) in _BY_ITSELF:
        refill(overlay, service, slot)
    else:
        replace_newest(overlay, service, slot)
