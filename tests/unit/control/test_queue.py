"""The work queue on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from minicommon.clock import SECOND, VirtualClock
from minimanager.control.queue import BACKOFF_MAX_NS, BACKOFF_NS, WorkQueue, backoff_ns


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def queue(clock: VirtualClock) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(clock)
    running = asyncio.create_task(queue.run())
    yield queue
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_repeats_collapse(queue: WorkQueue) -> None:
    for key in "abab":
        queue.add(key)
    assert await queue.take() == {"a", "b"}
    assert len(queue) == 0


async def test_taking_waits_for_work(queue: WorkQueue) -> None:
    taking = asyncio.create_task(queue.take())
    await settle()
    assert not taking.done()
    queue.add("a")
    assert await taking == {"a"}


async def test_a_key_is_never_worked_on_twice_at_once(queue: WorkQueue) -> None:
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.add("b")
    assert await queue.take() == {"b"}
    queue.done(["a"])
    assert await queue.take() == {"a"}


async def test_a_failure_delays_and_each_more(queue: WorkQueue, clock: VirtualClock) -> None:
    for failures in range(4):
        queue.add("a")
        await queue.take()
        queue.failed(["a"])
        await settle()
        clock.advance(backoff_ns(failures) - 1)
        await settle()
        assert len(queue) == 0
        clock.advance(1)
        await settle()
        assert len(queue) == 1


async def test_changes_do_not_shorten_the_delay_of_a_failing_key(queue: WorkQueue) -> None:
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.failed(["a"])
    await settle()
    assert len(queue) == 0


async def test_a_success_forgets_the_failures(queue: WorkQueue, clock: VirtualClock) -> None:
    for _ in range(3):
        queue.add("a")
        await queue.take()
        queue.failed(["a"])
    queue.add("a")
    await queue.take()
    queue.done(["a"])
    clock.advance(BACKOFF_MAX_NS)
    await settle()
    await queue.take()
    queue.failed(["a"])
    await settle()
    clock.advance(BACKOFF_NS)
    await settle()
    assert len(queue) == 1


async def test_of_two_times_the_first_counts(queue: WorkQueue, clock: VirtualClock) -> None:
    now_ns = clock.now_ns()
    queue.add_at("a", now_ns + 5 * SECOND)
    await settle()
    queue.add_at("a", now_ns + 2 * SECOND)
    queue.add_at("a", now_ns + 9 * SECOND)
    await settle()
    clock.advance(2 * SECOND)
    assert await queue.take() == {"a"}
    queue.done(["a"])
    clock.advance(20 * SECOND)
    await settle()
    assert len(queue) == 0


async def test_what_is_due_already_is_ready_at_once(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add_at("a", clock.now_ns())
    assert len(queue) == 1


def test_the_delay_has_an_end() -> None:
    assert [backoff_ns(failures) for failures in range(3)] == [BACKOFF_NS, 2 * BACKOFF_NS, 4 * BACKOFF_NS]
    assert backoff_ns(10_000) == BACKOFF_MAX_NS
