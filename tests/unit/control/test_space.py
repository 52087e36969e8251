"""When etcd's space is given back, on virtual time."""

from __future__ import annotations

import asyncio

from minicommon.clock import VirtualClock
from minicommon.errors import UnavailableError
from minimanager.control.space import CHECK_NS, PAUSE_NS, ROOM_BYTES, SpaceKeeper
from minimanager.store.api import StoreStatus


class FakeStore:
    """Remembers up to which revisions its history was forgotten."""

    def __init__(self) -> None:
        self.answers: list[StoreStatus | Exception] = []
        self.reclaimed: list[int] = []

    async def status(self) -> StoreStatus:
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def reclaim(self, revision: int) -> None:
        self.reclaimed.append(revision)


def of(size: int, *, revision: int = 7, full: bool = False) -> StoreStatus:
    return StoreStatus("3.4.23", (), revision, size, full)


async def looks(store: FakeStore, clock: VirtualClock, *pauses_ns: int) -> list[int]:
    """What was forgotten when so many nanoseconds have passed, one after the other."""
    task = asyncio.create_task(SpaceKeeper(store, clock).run())
    for pause_ns in (0, *pauses_ns):
        clock.advance(pause_ns)
        for _ in range(20):
            await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return store.reclaimed


async def test_a_small_database_is_left_alone() -> None:
    store = FakeStore()
    store.answers = [of(ROOM_BYTES - 1)]
    assert await looks(store, VirtualClock(), CHECK_NS) == []


async def test_a_full_one_is_emptied_at_once_and_as_often_as_it_is_full() -> None:
    store = FakeStore()
    store.answers = [
        of(5, revision=1, full=True),
        of(5),
        UnavailableError("away"),
        of(5, revision=2, full=True),
    ]
    assert await looks(store, VirtualClock(), CHECK_NS, CHECK_NS) == [1, 2]


async def test_a_large_one_is_emptied_once_an_hour() -> None:
    store = FakeStore()
    store.answers = [of(ROOM_BYTES)]
    assert await looks(store, VirtualClock(), CHECK_NS, CHECK_NS) == [7]
    store.reclaimed.clear()
    assert await looks(store, VirtualClock(), PAUSE_NS) == [7, 7]
