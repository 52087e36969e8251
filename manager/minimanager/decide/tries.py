"""The tasks of one place of a service, one after the other: how each is made, followed by the next, and removed.

A place is a slot, or a node of a global service. The tasks are its tries; the newest says what became of it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from minimanager.decide.overlay import Overlay
from minimanager.decide.restart import failures_after, not_before_ns, should_restart
from minimanager.decide.slots import Slot, age, is_outdated
from minimanager.domain.objects import Meta, Service, Task, TaskState

UNSUITED = "assigned node no longer meets constraints"
"""SwarmKit's words (`manager/orchestrator/constraintenforcer`)."""


def new_task(
    overlay: Overlay, service: Service, *, slot: int = 0, node_id: str = "", after: Task | None = None
) -> Task:
    """A task for the place. A successor is younger than its predecessor even when the clock was set back."""
    created_at_ns = overlay.now_ns if after is None else max(overlay.now_ns, after.meta.created_at_ns + 1)
    return Task(
        id=overlay.new_id(),
        meta=Meta(0, created_at_ns, created_at_ns),
        service_id=service.id,
        service_name=service.spec.name,
        slot=slot,
        bound_node_id=node_id,
        spec=service.spec.task,
        spec_version=service.spec_version,
        desired_state=goal(service) if after is None else TaskState.READY,
        state_since_ns=overlay.now_ns,
        message="created",
        ports=service.ports,
    )


def goal(service: Service) -> TaskState:
    """The desired state of the service's tasks that are not to wait."""
    return TaskState.COMPLETE if service.spec.mode.is_job else TaskState.RUNNING


def refill(overlay: Overlay, service: Service, slot: Slot) -> bool:
    """Give the place a new task, if the restart policy grants one or the specification is new. Whether it did."""
    if is_outdated(slot.newest, service):
        replace_newest(overlay, service, slot)
    elif should_restart(overlay, slot):
        _try_again(overlay, service, slot)
    else:
        return False
    return True


def replace_newest(overlay: Overlay, service: Service, slot: Slot) -> None:
    """Give the place a task that starts as soon as the one before it has stopped."""
    overlay.create(new_task(overlay, service, slot=slot.number, node_id=slot.node_id, after=slot.newest))


def keep_one(overlay: Overlay, service: Service, fit: list[Task]) -> None:
    """After a partition several may share a place: the one that came furthest stays, as the first of `fit`.

    One that is being replaced by another is not a double: while a new task comes up, the old one stays beside it.
    """
    fit.sort(key=lambda task: (is_outdated(task, service), -overlay.state(task), age(task)))
    for before, task in pairwise(fit):
        if is_outdated(before, service) == is_outdated(task, service):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))


def remove(overlay: Overlay, slot: Slot) -> None:
    """Empty the place, its history included."""
    for task in slot.tasks:
        overlay.put(replace(task, desired_state=TaskState.REMOVE))


def has_completed(overlay: Overlay, service: Service, slot: Slot) -> bool:
    """Whether the place of a job is done in the present iteration."""
    return any(
        overlay.state(task) is TaskState.COMPLETE and not is_outdated(task, service) for task in slot.tasks
    )


def _try_again(overlay: Overlay, service: Service, slot: Slot) -> None:
    """Another try, after the delay. When the last one could not even be prepared, no node prepares this one before."""
    last = slot.newest
    starts_at_ns = not_before_ns(overlay, last)
    task = new_task(overlay, service, slot=slot.number, node_id=slot.node_id, after=last)
    overlay.create(
        replace(
            task,
            not_before_ns=starts_at_ns,
            failures=failures_after(overlay, last),
            held=overlay.state(last) is TaskState.REJECTED and starts_at_ns > 0,
        )
    )
