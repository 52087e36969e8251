"""Level-triggered following: collapse, retry, repetition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.errors import UnavailableError
from miniworker.agent.follower import Follower


class Bench:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.applied: list[str] = []
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.revisions: list[int] = []
        self.follower: Follower[str] = Follower("test", self._apply, clock=self.clock, done=self._done)
        self.task = asyncio.create_task(self.follower.run())

    async def _apply(self, value: str) -> None:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise UnavailableError("not now")
        self.applied.append(value)

    def _done(self) -> None:
        self.revisions.append(self.follower.applied_revision)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.task.done(), self.task
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)


async def test_an_equal_value_is_not_applied_again_but_its_revision_counts(bench: Bench) -> None:
    bench.follower.want("a", 1)
    await bench.until(lambda: bench.revisions == [1])
    bench.follower.want("a", 2)
    await bench.until(lambda: bench.revisions == [1, 2])
    assert bench.applied == ["a"]


async def test_values_collapse_while_one_is_being_applied(bench: Bench) -> None:
    bench.gate.clear()
    bench.follower.want("a", 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.follower.want("b", 2)
    bench.follower.want("c", 3)
    bench.gate.set()
    await bench.until(lambda: bench.follower.applied_revision == 3)
    assert bench.applied == ["a", "c"]


async def test_a_failure_is_tried_again_and_shown_meanwhile(bench: Bench) -> None:
    bench.failures = 2
    bench.follower.want("a", 1)
    await bench.until(lambda: bench.follower.problem == "not now")
    assert bench.follower.applied is None
    while not bench.applied:
        bench.clock.advance(SECOND)
        await asyncio.sleep(0)
    await bench.until(lambda: bench.follower.problem == "")


async def test_a_newer_value_does_not_wait_for_the_pause(bench: Bench) -> None:
    bench.failures = 1
    bench.follower.want("a", 1)
    await bench.until(lambda: bench.follower.problem != "")
    bench.follower.want("b", 2)
    await bench.until(lambda: bench.applied == ["b"])


async def test_again_applies_what_may_be_lost(bench: Bench) -> None:
    bench.follower.want("a", 1)
    await bench.until(lambda: bench.applied == ["a"])
    bench.follower.again()
    await bench.until(lambda: bench.applied == ["a", "a"])


async def test_waiting_for_a_value(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.follower.wait_for(lambda value: value == "b"))
    bench.follower.want("a", 1)
    await bench.until(lambda: bench.applied == ["a"])
    assert not waiting.done()
    bench.follower.want("b", 2)
    await waiting


async def test_what_is_accepted_but_about_to_be_replaced_is_not_waited_out(bench: Bench) -> None:
    """A network that is taken away and comes back: whoever needs it must not see the one that is going."""
    bench.follower.want("with", 1)
    await bench.until(lambda: bench.applied == ["with"])
    bench.gate.clear()
    bench.follower.want("without", 2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.follower.want("with again", 3)
    waiting = asyncio.create_task(bench.follower.wait_for(lambda value: bool(value and "with" in value)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    bench.gate.set()
    await waiting
    assert bench.applied[-1] == "with again"
