"""Jobs: how far they have come, and what is next for a replicated one.

Each slot of a replicated job runs to completion once, and no more of them at once than was asked for.

Any change of the service begins a new iteration: what still runs of the old one is removed, and every slot runs again.
The tasks that are being stopped count as running, so that there are never more than were asked for.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.decide.restart import should_restart
from minimanager.decide.slots import Slot, is_active, is_outdated
from minimanager.decide.tries import UNSUITED, has_completed, keep_one, new_task, refill, remove
from minimanager.domain.objects import Service, ServiceSpec, Task, TaskState


def orchestrate(overlay: Overlay, service: Service) -> None:
    """Remove what is of an old iteration, stop what cannot stay, and begin as many tasks as there is room for."""
    for slot in overlay.slots(service.id).values():
        if slot.number > service.spec.replicas:
            remove(overlay, slot)
        else:
            _retire(overlay, service, slot)
    room = concurrency(service.spec) - sum(_occupies(overlay, t) for t in overlay.of_service(service.id))
    slots = {slot.number: slot for slot in overlay.slots(service.id).values()}
    for number in range(1, service.spec.replicas + 1):
        if room <= 0 or not overlay.has_room():
            return
        room -= _begin(overlay, service, number, slots.get(number))


def concurrency(spec: ServiceSpec) -> int:
    """How many tasks of the job may run at once."""
    return min(spec.max_concurrent or spec.replicas, spec.replicas)


def completed(overlay: Overlay, service: Service) -> int:
    """The job's tasks of the present iteration that are done."""
    return sum(has_completed(overlay, service, slot) for slot in overlay.slots(service.id).values())


def given_up(overlay: Overlay, service: Service) -> int:
    """The job's places that are not done and that the restart policy grants no other try."""
    return sum(_is_given_up(overlay, service, slot) for slot in overlay.slots(service.id).values())


def settled_nodes(overlay: Overlay, service: Service) -> frozenset[str]:
    """The nodes of a global job that are done, or are given up."""
    return frozenset(
        slot.node_id
        for slot in overlay.slots(service.id).values()
        if has_completed(overlay, service, slot) or _is_given_up(overlay, service, slot)
    )


def _is_given_up(overlay: Overlay, service: Service, slot: Slot) -> bool:
    last = slot.newest
    if is_outdated(last, service) or not overlay.finished(last) or has_completed(overlay, service, slot):
        return False
    return not should_restart(overlay, slot)


def _begin(overlay: Overlay, service: Service, number: int, slot: Slot | None) -> bool:
    """Begin the next task of a slot, if it needs one. Whether it did."""
    if slot is None:
        overlay.create(new_task(overlay, service, slot=number))
        return True
    if has_completed(overlay, service, slot) or any(not overlay.finished(task) for task in slot.active):
        return False
    return refill(overlay, service, slot)


def _retire(overlay: Overlay, service: Service, slot: Slot) -> None:
    fit: list[Task] = []
    for task in slot.tasks:
        if overlay.finished(task):
            if is_active(task) and overlay.state(task) is not TaskState.COMPLETE:
                overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif is_outdated(task, service):
            overlay.put(replace(task, desired_state=TaskState.REMOVE))
        elif not is_active(task):
            continue
        elif not overlay.sound(task.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif not overlay.suits(service, task.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN, error=UNSUITED))
        else:
            fit.append(task)
    keep_one(overlay, service, fit)


def _occupies(overlay: Overlay, task: Task) -> bool:
    """Whether the task may be running. One that waits for a node and is not wanted any more will never."""
    if overlay.finished(task) or overlay.down(task.node_id):
        return False
    return is_active(task) or bool(task.node_id)
