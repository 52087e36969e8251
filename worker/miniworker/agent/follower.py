"""Keeps one outside thing equal to the newest wanted value: the kernel's fabric, the ingress table.

Values that arrive while one is being applied collapse into the newest. A failure is tried again with growing pauses,
at once when a newer value comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError
from minicommon.log import fields

from miniworker.agent.waiting import sleep_unless

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_NS = 100 * MILLISECOND
LONGEST_RETRY_NS = 5 * SECOND


class Follower(Generic[T]):
    """`apply` raises MiniError when it should be tried again. `done` is told each revision that has been applied."""

    def __init__(
        self, name: str, apply: Callable[[T], Awaitable[None]], *, clock: Clock, done: Callable[[], None]
    ) -> None:
        self._name = name
        self._apply = apply
        self._clock = clock
        self._done = done
        self._wanted: tuple[T, int] | None = None
        self._applied: T | None = None
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self.applied_revision = 0
        self.problem = ""
        """Why the last try failed; empty when it did not."""

    @property
    def applied(self) -> T | None:
        """The value that is in force."""
        return self._applied

    def want(self, value: T, revision: int) -> None:
        self._wanted = (value, revision)
        self._wake.set()

    def again(self) -> None:
        """What was applied may be lost: apply it anew."""
        self._applied = None
        self._wake.set()

    async def wait_for(self, accepted: Callable[[T | None], bool]) -> None:
        """Return once the value in force is `accepted`, and no older than the one that is wanted now.

        One that is accepted but about to be replaced may be followed by one that is not.
        """
        _, revision = self._wanted or (None, 0)
        async with self._progress:
            await self._progress.wait_for(
                lambda: self.applied_revision >= revision and accepted(self._applied)
            )

    async def run(self) -> None:
        retries = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is None:
                continue
            try:
                await self._follow(*self._wanted)
                retries = 0
            except MiniError as error:
                await self._pause(error, retries)
                retries += 1

    async def _follow(self, value: T, revision: int) -> None:
        if value != self._applied:
            await self._apply(value)
        async with self._progress:
            self._applied = value
            self.applied_revision = revision
            self._progress.notify_all()
        self.problem = ""
        self._done()

    async def _pause(self, error: MiniError, retries: int) -> None:
        delay = min(FIRST_RETRY_NS << min(retries, 20), LONGEST_RETRY_NS)
        if error.message != self.problem:
            logger.warning(
                "Could not apply the assignments; trying again.", extra=fields(part=self._name, error=error)
            )
        self.problem = error.message
        await sleep_unless(self._wake, clock=self._clock, duration_ns=delay)
        self._wake.set()
