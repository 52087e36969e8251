"""Time as an argument: whoever needs it takes a `Clock`, so that tests run on virtual time and never sleep."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol

SECOND = 1_000_000_000
"""Nanoseconds."""

MILLISECOND = 1_000_000
"""Nanoseconds."""


class Clock(Protocol):
    """Wall-clock nanoseconds since the epoch, and waiting."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""

    async def sleep_until(self, when_ns: int) -> None:
        """Return once `now_ns()` has reached `when_ns`."""


class SystemClock:
    """The machine's own time."""

    def now_ns(self) -> int:
        return time.time_ns()

    async def sleep_until(self, when_ns: int) -> None:
        while (left := when_ns - time.time_ns()) > 0:  # noqa: ASYNC110  the wall clock may be set back
            await asyncio.sleep(left / SECOND)


class VirtualClock:
    """Time that moves only when a test says so."""

    def __init__(self, now_ns: int = 1_700_000_000 * SECOND) -> None:
        self._now_ns = now_ns
        self._sequence = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep_until(self, when_ns: int) -> None:
        if when_ns <= self._now_ns:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when_ns, next(self._sequence), future))
        await future

    def advance(self, by_ns: int) -> None:
        """Move time forward and wake those whose moment has come, in order."""
        self._now_ns += by_ns
        while self._sleepers and self._sleepers[0][0] <= self._now_ns:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
