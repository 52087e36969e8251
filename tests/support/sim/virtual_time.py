"""An event loop whose time is virtual: when nobody has anything to do, the next moment that somebody waits for is now.

So hours pass in seconds, `asyncio`'s own time-outs included, and nothing depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from minicommon.clock import SECOND

T = TypeVar("T")

START_NS: Final = 1_700_000_000 * SECOND


class StuckError(RuntimeError):
    """Everybody waits for somebody else."""


class VirtualTime(selectors.SelectSelector):
    """The loop's selector, which moves time instead of waiting; and the `Clock` of all that runs on the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_ns = 0

    def now_ns(self) -> int:
        return START_NS + self._passed_ns

    @property
    def passed_seconds(self) -> float:
        return self._passed_ns / SECOND

    async def sleep_until(self, when_ns: int) -> None:
        loop = asyncio.get_running_loop()
        if when_ns <= self.now_ns():
            await asyncio.sleep(0)
        while when_ns > self.now_ns():
            reached: asyncio.Future[None] = loop.create_future()
            timer = loop.call_at((when_ns - START_NS) / SECOND, _reach, reached)
            try:
                await reached
            finally:
                timer.cancel()

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now_ns() + round(seconds * SECOND))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError("nothing will ever happen any more")
        if timeout > 0:
            self._passed_ns += math.ceil(timeout * SECOND)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        super().__init__(virtual)

    def time(self) -> float:
        return self._virtual.passed_seconds


def run(work: Coroutine[Any, Any, T], clock: VirtualTime) -> T:
    """Run `work` to its end on a loop of its own, whose time is that of `clock`."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(work)


def _reach(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
