"""One task's loop: ask the machine for the next step, perform it, take the result, report, again.

A change of the desired state or of the task's networks takes effect between steps; a pull and the wait for the
container's end, which may take for ever, are broken off when it makes them pointless. What must not be given up
(stopping, tidying) is tried until it works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError
from minicommon.log import fields
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent import task_machine as machine
from miniworker.agent.executor import Executor
from miniworker.agent.task_machine import Event, Failed, Progress, Step
from miniworker.agent.waiting import sleep_unless
from miniworker.runtime.api import NoSuchContainerError, RuntimeFaultError

logger = logging.getLogger(__name__)

Report = Callable[[str, Progress], None]
"""Told each new progress of a task, by its id."""

WITHDRAW_NS = 5 * SECOND
"""How long a task that is to stop waits for the other nodes to take it out of their tables. They answer within
milliseconds; one that is cut off counts as gone after 2.5 s, and a manager that was killed is back within 5."""

_INTERRUPTIBLE = frozenset({Step.PULL, Step.CONNECT, Step.WATCH})
_MUST_SUCCEED = frozenset({Step.CONNECT, Step.STOP, Step.CLEAN, Step.REMOVE})

FIRST_RETRY_NS = 100 * MILLISECOND
LONGEST_RETRY_NS = 8 * SECOND
"""As the session's: SwarmKit's 8 s."""


class TaskRunner:
    """Runs one task until nothing is left of it, or until its `run` is cancelled: then the container goes on.

    `restored`: another process may have begun it, and its networks may have changed since.
    """

    def __init__(
        self,
        task: dispatch.AssignedTask,
        progress: Progress,
        *,
        executor: Executor,
        report: Report,
        clock: Clock,
        restored: bool = False,
    ) -> None:
        self._task = task
        self._connected = None if restored else tuple(task.attachments)
        """What the container is attached to, or will be when it is made; None: not known."""
        self._desired = task.desired_state
        self._progress = progress
        self._executor = executor
        self._report = report
        self._clock = clock
        self._changed = asyncio.Event()
        self._withdrawn = asyncio.Event()
        if task.withdrawn:
            self._withdrawn.set()
        self._retries = 0

    @property
    def progress(self) -> Progress:
        return self._progress

    def want(self, desired: pb.TaskState.ValueType, *, withdrawn: bool = False) -> None:
        """Change the desired state. It never goes back. `withdrawn`: nobody sends the task anything new any more."""
        if withdrawn:
            self._withdrawn.set()
        if desired > self._desired:
            self._desired = desired
            self._changed.set()

    @property
    def task_id(self) -> str:
        return self._task.id

    @property
    def disconnect_stop_ns(self) -> int:
        """How long the task may run without a manager, in nanoseconds; 0: for ever."""
        return self._task.spec.disconnect_stop_ns

    def strand(self) -> None:
        """Stop the task: no manager has been there for too long."""
        self._take(machine.Stranded())
        self._changed.set()

    def connect(self, task: dispatch.AssignedTask) -> None:
        """The task as it is assigned now: its networks may be others."""
        if task.attachments != self._task.attachments:
            self._task = task
            self._changed.set()

    async def run(self) -> None:
        while (step := self._next()) is not Step.DONE:
            self._changed.clear()
            attachments = tuple(self._task.attachments)
            if step is Step.WAIT:
                await self._changed.wait()
            elif (event := await self._perform(step)) is not None:
                if step in (Step.CREATE, Step.CONNECT):
                    self._connected = attachments
                self._take(event)

    def _next(self) -> Step:
        attachments = tuple(self._task.attachments)
        return machine.next_step(
            self._desired,
            self._progress,
            exposed=bool(attachments),
            connected=self._connected == attachments,
        )

    def _take(self, event: Event) -> None:
        before, self._progress = self._progress, machine.after(self._progress, event)
        self._retries = 0
        if _told(before) != _told(self._progress):
            self._report(self._task.id, self._progress)

    async def _perform(self, step: Step) -> Event | None:
        """The step's event; None when it was broken off or has to be tried again."""
        try:
            if step in _INTERRUPTIBLE:
                return await self._interruptible(step)
            if step is Step.WITHDRAW:
                return await self._withdraw()
            return await self._executor.perform(step, self._task, self._progress)
        except MiniError as error:
            return await self._failed(step, error)
        except OSError as error:  # a full disk, no more descriptors: of this task, and no end of all others
            return await self._failed(step, RuntimeFaultError(str(error)))

    async def _withdraw(self) -> Event:
        told_at_ns = self._clock.now_ns()
        if not self._withdrawn.is_set():
            await sleep_unless(self._withdrawn, clock=self._clock, duration_ns=WITHDRAW_NS)
        late = not self._withdrawn.is_set()
        if late:
            logger.warning(
                "Task is stopped though other nodes may still send it traffic: not all have said otherwise.",
                extra=fields(task_id=self._task.id, waited_ns=WITHDRAW_NS),
            )
        return machine.Withdrawn(told_at_ns, self._clock.now_ns(), unacknowledged=late)

    async def _interruptible(self, step: Step) -> Event | None:
        work = asyncio.create_task(self._executor.perform(step, self._task, self._progress))
        try:
            while not work.done() and self._next() is step:
                await self._work_or_change(work)
            return await work if work.done() else None
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    async def _work_or_change(self, work: asyncio.Task[Event]) -> None:
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({work, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        self._changed.clear()

    async def _failed(self, step: Step, error: MiniError) -> Event | None:
        if step in _MUST_SUCCEED or (step is Step.WATCH and isinstance(error, RuntimeFaultError)):
            await self._pause(step, error)
            return None
        if isinstance(error, NoSuchContainerError):
            return Failed(step, "task: its container is gone")
        logger.warning("Task step failed.", extra=fields(task_id=self._task.id, step=step.value, error=error))
        return Failed(step, error.message)

    async def _pause(self, step: Step, error: MiniError) -> None:
        delay = min(FIRST_RETRY_NS << min(self._retries, 20), LONGEST_RETRY_NS)
        self._retries += 1
        logger.warning(
            "Task step failed and will be tried again.",
            extra=fields(task_id=self._task.id, step=step.value, error=error, retry_ns=delay),
        )
        await self._clock.sleep_until(self._clock.now_ns() + delay)


def _told(progress: Progress) -> tuple[object, ...]:
    """What of a progress others are told."""
    return (
        progress.state,
        progress.message,
        progress.error,
        progress.container_id,
        progress.pid,
        progress.unhealthy,
        progress.not_ready,
    )
