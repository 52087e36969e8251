"""Rolling updates and rollbacks: which places of a service get a task of its present specification, and when.

The tasks themselves say how far it has come; the rollout object keeps what they cannot: since when, which places have
failed, when the last progress was, and how it ended. A place is *outdated* while no task of the present specification
is to run there. As many lanes as the configured parallelism each replace one place, wait until its new task runs and
for the delay, then take the next. Everything is done when no place is outdated and every new task has run for the
monitor period. (swarmkit `manager/orchestrator/update/updater.go`; the progress deadline is ours.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from minicommon.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from minicommon.units import format_duration

from minimanager.decide.dependencies import waits_for
from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import Slot, is_outdated
from minimanager.domain.belongings import belongings
from minimanager.domain.objects import (
    DEFAULT_MONITOR_NS,
    SECOND,
    FailureAction,
    Rollout,
    RolloutState,
    Service,
    Task,
    TaskState,
    UpdateConfig,
    UpdateOrder,
)
from minimanager.domain.revisions import last_other_template, requested, revised
from minimanager.domain.secrets import with_contents

_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)
"""How a task ends that nobody has stopped."""

_IN_PROGRESS = "update in progress"
_BY_HAND = "manually requested rollback"

_ALL = 1_000_000
"""Millionths."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What a rollout sees of one place."""

    slot: Slot
    outdated: bool
    """No task of the present specification is to run there, and none was tried last."""
    down: bool
    """No task that is to run there does."""
    running_since_ns: int
    """Of the task with the present specification; 0: none runs."""

    @property
    def key(self) -> str:
        return str(self.slot.node_id or self.slot.number)


class Replacing:
    """The replacement of one service's tasks in one pass; `slots` are those that it is to keep."""

    def __init__(self, overlay: Overlay, service: Service, slots: Collection[Slot]) -> None:
        self._overlay = overlay
        self._service = service
        self._config = service.spec.rollback if service.rolling_back else service.spec.update
        self._granted: frozenset[str] = frozenset()
        self._places = [self._place(slot) for slot in slots]
        known = overlay.snapshot.rollouts.get(service.id)
        outdated = sum(place.outdated for place in self._places)
        if known is None and not outdated:
            self._rollout = None
            return
        rollout = self._present(known, outdated)
        if rollout.state.active:
            rollout = self._advance(rollout, outdated)
        if rollout.state.active and rollout.update_number == service.update_number:
            waiting = waits_for(overlay, service)
            self._granted = frozenset() if waiting else self._grants(rollout)
            rollout = replace(
                rollout,
                outdated=outdated - len(self._granted),
                message=rollout.message if service.rolling_back else waiting or _IN_PROGRESS,
            )
        self._rollout = rollout
        overlay.put_rollout(rollout)

    # --- for those who fill the places ---

    def retires(self, slot: Slot, task: Task) -> bool:
        """Whether an active task of the slot is to stop now because a new one takes, or has taken, its place."""
        if not is_outdated(task, self._service):
            return False
        new = [other for other in slot.active if not is_outdated(other, self._service)]
        if any(self._runs(other) for other in new):
            return True
        granted = _key(slot) in self._granted
        return self._config.order is UpdateOrder.STOP_FIRST and (granted or bool(new))

    def needs_nothing(self, slot: Slot, fit: list[Task]) -> bool:
        """Whether the slot, with these tasks that can stay, is to get no other task now."""
        if not fit:
            return False
        if any(not is_outdated(task, self._service) for task in fit):
            return True
        if is_outdated(slot.newest, self._service):
            return _key(slot) not in self._granted
        return (
            self._rollout is None or not self._rollout.state.active
        )  # the new one failed beside the old one

    def template(self, slot: Slot) -> Service:
        """The service as a new task of the slot is to follow it: as it was, where its turn has not come."""
        last = slot.newest
        if _key(slot) in self._granted or not is_outdated(last, self._service) or self._rollout is None:
            return self._service
        spec = replace(self._service.spec, task=last.spec)
        return replace(self._service, spec=spec, spec_version=last.spec_version, ports=last.ports)

    # --- where it stands ---

    def _present(self, known: Rollout | None, outdated: int) -> Rollout:
        """The rollout that is under way, or a new one where there is something new to do."""
        service = self._service
        if known is not None:
            asked_again = known.update_number != service.update_number
            if known.state.completed:
                if not outdated:
                    return known
            elif not asked_again:
                return known
        return self._begin(service, known, outdated)

    def _begin(self, service: Service, known: Rollout | None, outdated: int, message: str = "") -> Rollout:
        back = service.rolling_back
        return Rollout(
            id=service.id,
            meta=known.meta if known is not None else Rollout(service.id).meta,
            update_number=service.update_number,
            state=RolloutState.ROLLBACK_STARTED if back else RolloutState.UPDATING,
            started_at_ns=self._overlay.now_ns,
            message=message or (_BY_HAND if back else _IN_PROGRESS),
            slots=outdated,
            outdated=outdated,
            progressed_at_ns=self._overlay.now_ns,
        )

    def _advance(self, rollout: Rollout, outdated: int) -> Rollout:
        now_ns = self._overlay.now_ns
        running = sum(1 for place in self._places if place.running_since_ns)
        progressed = running > rollout.running
        failures = {
            place.key: task.id
            for place in self._places
            if (task := self._failure(place, rollout)) is not None
        }
        rollout = replace(
            rollout,
            running=max(running, rollout.running),
            progressed_at_ns=now_ns if progressed else rollout.progressed_at_ns,
            failed=tuple(sorted({*rollout.failed, *failures})),
        )
        if self._service.update_paused:
            return self._pause(rollout, "paused by request")
        too_many = len(rollout.failed) * _ALL > self._config.max_failure_millionths * max(rollout.slots, 1)
        if too_many and self._config.failure_action is not FailureAction.CONTINUE:
            task_id = next(iter(failures.values()), "")
            return self._fail(rollout, f"due to failure or early termination of task {task_id}".rstrip())
        if self._is_complete(rollout, outdated):
            return self._complete(rollout)
        return self._watch_deadline(rollout, outdated)

    def _fail(self, rollout: Rollout, why: str) -> Rollout:
        if self._config.failure_action is FailureAction.ROLLBACK and not self._service.rolling_back:
            return self._roll_back(rollout, why) or self._pause(
                rollout, f"paused {why}; nothing to go back to"
            )
        return self._pause(rollout, f"paused {why}")

    def _roll_back(self, rollout: Rollout, why: str) -> Rollout | None:
        """Back to the newest other template; None when there is none, or what it had is not to be had now."""
        service, snapshot = self._service, self._overlay.snapshot
        target = last_other_template(service)
        if target is None:
            return None
        try:
            spec = with_contents(snapshot, target.spec, renew=True)
            has = belongings(snapshot, spec, service)
        except (AlreadyExistsError, InvalidArgumentError, NotFoundError, ResourceExhaustedError):
            return None
        back = requested(revised(service, spec, has, now_ns=self._overlay.now_ns), rolling_back=True)
        self._overlay.put_service(back)
        touched = sum(1 for place in self._places if not place.outdated)
        return self._begin(back, rollout, touched, f"update rolled back {why}")

    def _pause(self, rollout: Rollout, why: str) -> Rollout:
        if self._service.rolling_back:
            return replace(rollout, state=RolloutState.ROLLBACK_PAUSED, message=f"rollback {why}")
        return replace(rollout, state=RolloutState.PAUSED, message=f"update {why}")

    def _complete(self, rollout: Rollout) -> Rollout:
        back = self._service.rolling_back
        return replace(
            rollout,
            state=RolloutState.ROLLBACK_COMPLETED if back else RolloutState.COMPLETED,
            completed_at_ns=self._overlay.now_ns,
            message="rollback completed" if back else "update completed",
        )

    def _is_complete(self, rollout: Rollout, outdated: int) -> bool:
        """Whether all is replaced and has run long enough; asks to look again when only time is missing."""
        if outdated:
            return False
        ends_at_ns = 0
        for place in self._places:
            if place.running_since_ns:
                ends_at_ns = max(ends_at_ns, place.running_since_ns + _monitor_ns(self._config))
            elif place.key not in rollout.failed:
                return False
        if ends_at_ns > self._overlay.now_ns:
            self._overlay.wake_at(ends_at_ns)
            return False
        return True

    def _watch_deadline(self, rollout: Rollout, outdated: int) -> Rollout:
        """Give up when nothing has come forward for too long. New tasks that only have to go on running are none."""
        deadline_ns = self._config.progress_deadline_ns
        if not deadline_ns or not (outdated or any(not place.running_since_ns for place in self._places)):
            return rollout
        ends_at_ns = rollout.progressed_at_ns + self._config.delay_ns + deadline_ns
        if self._overlay.now_ns < ends_at_ns:
            self._overlay.wake_at(ends_at_ns)
            return rollout
        why = f"because it has made no progress for {format_duration(deadline_ns)}"
        return replace(self._fail(rollout, why), timed_out=True)

    # --- the places ---

    def _place(self, slot: Slot) -> _Place:
        active = [task for task in slot.active if not self._overlay.finished(task)]
        new = [task for task in active if not is_outdated(task, self._service)]
        since_ns = [self._running_since_ns(task) for task in new if self._runs(task)]
        return _Place(
            slot=slot,
            outdated=not new and is_outdated(slot.newest, self._service),
            down=not any(self._runs(task) for task in active),
            running_since_ns=min(since_ns, default=0),
        )

    def _grants(self, rollout: Rollout) -> frozenset[str]:
        """The outdated places whose turn it is; those where nothing runs come first."""
        waiting = sorted(
            (place for place in self._places if place.outdated),
            key=lambda place: (not place.down, place.slot.number, place.key),
        )
        lanes = self._config.parallelism or len(self._places)
        busy = sum(self._is_busy(place, rollout) for place in self._places if not place.outdated)
        return frozenset(place.key for place in waiting[: max(lanes - busy, 0)])

    def _is_busy(self, place: _Place, rollout: Rollout) -> bool:
        """Whether a lane is at the place; one that has failed, or ran there before, holds none up.

        One that a former rollout has begun is not up yet either, so it counts until it runs.
        """
        newest = place.slot.newest
        if place.key in rollout.failed:
            return False
        is_new = newest.meta.created_at_ns >= rollout.started_at_ns
        if not place.running_since_ns:
            return is_new or not self._overlay.finished(newest)
        if not is_new:
            return False
        free_at_ns = place.running_since_ns + self._config.delay_ns
        if free_at_ns > self._overlay.now_ns:
            self._overlay.wake_at(free_at_ns)
            return True
        return False

    def _failure(self, place: _Place, rollout: Rollout) -> Task | None:
        """The newest task of this rollout that ended by itself before it had run for the monitor period."""
        for task in reversed(place.slot.tasks):
            if is_outdated(task, self._service) or task.meta.created_at_ns < rollout.started_at_ns:
                continue
            if self._overlay.state(task) in _BY_ITSELF and self._ended_early(task):
                return task
        return None

    def _ended_early(self, task: Task) -> bool:
        status = self._overlay.snapshot.statuses.get(task.id)
        if status is None or not status.running_since_ns:
            return True
        ended_at_ns = status.meta.updated_at_ns
        return ended_at_ns - status.running_since_ns < _monitor_ns(self._config)

    def _runs(self, task: Task) -> bool:
        return self._overlay.snapshot.up(task)

    def _running_since_ns(self, task: Task) -> int:
        status = self._overlay.snapshot.statuses.get(task.id)
        return (status.running_since_ns if status is not None else 0) or task.state_since_ns


def _monitor_ns(config: UpdateConfig) -> int:
    """A failure is noticed while its lane still waits (swarmkit `update/updater.go`)."""
    monitor_ns = config.monitor_ns or DEFAULT_MONITOR_NS
    return config.delay_ns + SECOND if config.delay_ns >= monitor_ns else monitor_ns


def _key(slot: Slot) -> str:
    return str(slot.node_id or slot.number)
