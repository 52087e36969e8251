"""The restart policy: whether a slot gets another try, when it may begin, and what it waits for.

A successor is made at once, with desired state READY: its node pulls the image and prepares the container while the
delay runs. It is released to RUNNING when the delay is over and the predecessor has stopped.

The delay doubles with each try in a row that ended soon, up to BACKOFF_CAP_NS. When the last one could not even be
prepared, its successor gets no node before the delay is over, or it would fail at once as well.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import Slot, is_active
from minimanager.domain.objects import SECOND, RestartCondition, Service, Task, TaskState

GATE_TIMEOUT_NS = 60 * SECOND
"""How long a successor waits for its predecessor to stop (swarmkit `orchestrator/restart/restart.go`)."""

BACKOFF_CAP_NS = 300 * SECOND
"""What the delay grows to, unless it is longer from the start: Kubernetes' CrashLoopBackOff has five minutes, too."""

STABLE_NS = 60 * SECOND
"""A task that went on for so long does not belong to a crash loop: the next delay is the policy's again."""

_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)
"""How a task ends that nobody has stopped."""


def should_restart(overlay: Overlay, slot: Slot) -> bool:
    """Whether the policy grants the slot another task after its newest."""
    last = slot.newest
    policy = last.spec.restart
    if policy.condition is RestartCondition.NONE:
        return False
    service = overlay.snapshot.services.get(last.service_id)
    any_end = policy.condition is RestartCondition.ANY and not (service and service.spec.mode.is_job)
    if overlay.state(last) is TaskState.COMPLETE and not any_end:
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
    policy_ns = last.spec.restart.delay_ns
    delay_ns = 0 if moved else backoff_ns(policy_ns, failures_after(overlay, last))
    return overlay.now_ns + delay_ns if delay_ns else 0


def backoff_ns(delay_ns: int, failures: int) -> int:
    """The policy's delay after so many tries in a row that ended soon; nanoseconds."""
    doublings = min(max(failures - 1, 0), 32)
    return max(min(delay_ns << doublings, BACKOFF_CAP_NS), delay_ns)


def failures_after(overlay: Overlay, last: Task) -> int:
    """How many tries in a row have ended soon, `last` included; 0 when it did not."""
    state = overlay.state(last)
    if state not in _BY_ITSELF:
        return 0
    began_at_ns = max(last.meta.created_at_ns, last.not_before_ns)
    if state is not TaskState.REJECTED and _ended_at_ns(overlay, last) - began_at_ns >= STABLE_NS:
        return 0
    return last.failures + 1


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
                goal = TaskState.COMPLETE if service.spec.mode.is_job else TaskState.RUNNING
                overlay.put(replace(task, desired_state=goal))
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
