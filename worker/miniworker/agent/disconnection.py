"""What becomes of tasks while the node has no manager: they run on, unless their service says for how long.

`--on-disconnect stop=30s` is for what must not run twice for long: the manager has put another task elsewhere once the
node is DOWN. The time counts from the loss of the session, or from the start of this process, whichever came last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from minicommon.clock import Clock
from minicommon.log import fields

from miniworker.agent.task_runner import TaskRunner
from miniworker.agent.waiting import sleep_unless

logger = logging.getLogger(__name__)


class Disconnection:
    """`run` for as long as the agent lives. `runners` gives the tasks that there are."""

    def __init__(self, runners: Callable[[], Collection[TaskRunner]], clock: Clock) -> None:
        self._runners = runners
        self._clock = clock
        self._since_ns: int | None = clock.now_ns()
        self._changed = asyncio.Event()

    def lost(self) -> None:
        """The session with a manager has ended."""
        if self._since_ns is None:
            self._since_ns = self._clock.now_ns()
            self._changed.set()

    def found(self) -> None:
        """A manager has told what is assigned."""
        if self._since_ns is not None:
            self._since_ns = None
            self._changed.set()

    async def run(self) -> None:
        """Stop tasks as their time comes."""
        while True:
            self._changed.clear()
            next_ns = self._strand()
            if next_ns is None:
                await self._changed.wait()
            else:
                left_ns = next_ns - self._clock.now_ns()
                await sleep_unless(self._changed, clock=self._clock, duration_ns=left_ns)

    def _strand(self) -> int | None:
        """Stop what is due; when the next one will be."""
        if self._since_ns is None:
            return None
        now_ns, moments = self._clock.now_ns(), []
        for runner in self._runners():
            if not runner.disconnect_stop_ns or runner.progress.ended or runner.progress.stranded:
                continue
            due_ns = self._since_ns + runner.disconnect_stop_ns
            if due_ns > now_ns:
                moments.append(due_ns)
                continue
            logger.warning(
                "Task is stopped: the node has had no manager for as long as its service allows.",
                extra=fields(task_id=runner.task_id, allowed_ns=runner.disconnect_stop_ns),
            )
            runner.strand()
        return min(moments, default=None)
