"""Who may work when."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from miniworker.network.turns import Turns


class Worker:
    """Works from when it has its turn until it is told to end."""

    def __init__(self, turn: AbstractAsyncContextManager[None]) -> None:
        self.works = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(turn))

    async def _run(self, turn: AbstractAsyncContextManager[None]) -> None:
        async with turn:
            self.works = True
            await self._end.wait()
        self.works = False

    async def end(self) -> None:
        self._end.set()
        await self.task
        await settle()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tasks_are_worked_on_side_by_side_and_each_by_one_only() -> None:
    turns = Turns()
    one, again, other = Worker(turns.of("a")), Worker(turns.of("a")), Worker(turns.of("b"))
    await settle()
    assert (one.works, again.works, other.works) == (True, False, True)
    await one.end()
    assert again.works
    await again.end()
    await other.end()


async def test_who_is_alone_waits_for_all_and_lets_nobody_in() -> None:
    turns = Turns()
    one = Worker(turns.of("a"))
    await settle()
    alone = Worker(turns.alone())
    await settle()
    late = Worker(turns.of("b"))
    await settle()
    assert (alone.works, late.works) == (False, False)
    await one.end()
    assert (alone.works, late.works) == (True, False)
    await alone.end()
    assert late.works
    await late.end()


async def test_two_are_not_alone_together() -> None:
    turns = Turns()
    first, second = Worker(turns.alone()), Worker(turns.alone())
    await settle()
    assert (first.works, second.works) == (True, False)
    await first.end()
    assert second.works
    await second.end()


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    turns = Turns()
    one = Worker(turns.of("a"))
    await settle()
    alone = Worker(turns.alone())
    await settle()
    alone.task.cancel()
    await settle()
    other = Worker(turns.of("b"))
    await settle()
    assert other.works
    await one.end()
    await other.end()
