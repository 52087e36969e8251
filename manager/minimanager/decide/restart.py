"""The restart policy: whether a slot gets another try, when it may begin, and what it waits for.

A successor is made at once, with desired state READY: its node pulls the image and prepares the container while the
delay runs. It is released to RUNNING when the delay is over and the predecessor has stopped.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import Slot, is_active
from minimanager.domain.objects import SECOND, RestartCondition, Service, Task, TaskState

GATE_TIMEOUT_NS = 60 * SECOND
"""How long a successor waits for its predecessor to stop (swarmkit `orchestrator/restart/restart.go`)."""


def should_restart(overlay: Overlay, slot: Slot) -> bool:
    """Whether the policy grants the slot another task after its newest."""
    last = slot.newest
    policy = last.spec.restart
    if policy.condition is RestartCondition.NONE:
        return False
    if policy.condition is RestartCondition.ON_FAILURE and overlay.state(last) is TaskState.COMPLETE:
        return False
    return policy.max_attempts == 0 or restarts(overlay, slot) < policy.max_attempts


def restarts(overlay: Overlay, slot: Slot) -> int:
    """How often the slot's present specification was restarted, within the policy's window if it has one.

    The first task of a specification is not a restart. The reaper keeps one task more than the policy's limit, so
    that this is known to whoever is the leader.
    """
    last = slot.newest
    tries = [task for task in slot.tasks if task.spec_version == last.spec_version][1:]
    window_ns = last.spec.restart.window_ns
    if window_ns == 0:
        return len(tries)
    since_ns = _ended_at_ns(overlay, last) - window_ns
    return sum(task.meta.created_at_ns > since_ns for task in tries)


def not_before_ns(overlay: Overlay, last: Task) -> int:
    """When the successor of `last` may start: after the delay, or at once when its node is not to have it any more."""
    service = overlay.snapshot.services.get(last.service_id)
    moved = overlay.draining(last.node_id) or (
        service is not None and not overlay.suits(service, last.node_id)
    )
    delay_ns = 0 if moved else last.spec.restart.delay_ns
    return overlay.now_ns + delay_ns if delay_ns else 0


def release(overlay: Overlay, service: Service) -> None:
    """Let those of the service's tasks run that have waited long enough; ask to look again for the others."""
    for slot in overlay.slots(service.id).values():
        for task in slot.tasks:
            if task.desired_state is not TaskState.READY:
                continue
            opens_at_ns = task.not_before_ns
            if _has_predecessor(overlay, slot):
                opens_at_ns = max(opens_at_ns, task.meta.created_at_ns + GATE_TIMEOUT_NS)
            if overlay.now_ns >= opens_at_ns:
                overlay.put(replace(task, desired_state=TaskState.RUNNING))
            else:
                overlay.wake_at(opens_at_ns)


def _has_predecessor(overlay: Overlay, slot: Slot) -> bool:
    """Whether a task of the slot that should stop is still to be waited for."""
    return any(
        not is_active(task) and task.node_id and not overlay.finished(task) and not overlay.down(task.node_id)
        for task in slot.tasks
    )


def _ended_at_ns(overlay: Overlay, task: Task) -> int:
    status = overlay.snapshot.statuses.get(task.id)
    return task.state_since_ns if status is None else max(task.state_since_ns, status.state_since_ns)
