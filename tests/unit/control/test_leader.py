"""Elections on the store in memory and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.supervise import EndedError
from minimanager.control.leader import LEASE_SECONDS, Election
from minimanager.store.api import Compare, Put
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from minimanager.store.transaction import FencedError

KEYS = Keys("c1")


class Manager:
    """A candidate whose work is to wait, and what became of it."""

    def __init__(self, store: MemoryStore, clock: VirtualClock, name: str) -> None:
        self.election = Election(store, KEYS, name, clock=clock)
        self.fences: list[Compare] = []
        self.elected = asyncio.Event()
        self.deposed = asyncio.Event()
        self.fail: BaseException | None = None

    def leads(self) -> bool:
        return self.election.leading

    async def lead(self, fence: Compare) -> None:
        self.fences.append(fence)
        self.elected.set()
        self.deposed.clear()
        try:
            if self.fail:
                raise self.fail
            await asyncio.Event().wait()
        finally:
            self.elected.clear()
            self.deposed.set()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(clock: VirtualClock) -> AsyncIterator[MemoryStore]:
    store = MemoryStore(clock=clock)
    yield store
    await store.close()


@asynccontextmanager
async def campaigning(manager: Manager) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(manager.election.run(manager.lead))
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def pass_time(clock: VirtualClock, seconds: float, steps: int = 20) -> None:
    """Time in small steps, so that everybody does in between what is due."""
    for _ in range(steps):
        clock.advance(int(seconds * SECOND) // steps)
        await settle()


async def test_one_of_two_leads_and_the_store_says_who(store: MemoryStore, clock: VirtualClock) -> None:
    one, two = Manager(store, clock, "one"), Manager(store, clock, "two")
    assert await one.election.leader() == ""
    async with campaigning(one):
        await one.elected.wait()
        async with campaigning(two):
            await pass_time(clock, 10)
            assert (one.election.leading, two.election.leading) == (True, False)
            assert await two.election.leader() == "one"


async def test_who_stops_hands_over_at_once(store: MemoryStore, clock: VirtualClock) -> None:
    one, two = Manager(store, clock, "one"), Manager(store, clock, "two")
    async with campaigning(two) as second:
        await two.elected.wait()
        async with campaigning(one):
            await settle()
            second.cancel()
            await one.elected.wait()  # no time has passed
            assert two.deposed.is_set()
            assert await one.election.leader() == "one"


async def test_the_fence_is_the_revision_of_the_key_and_new_each_time(
    store: MemoryStore, clock: VirtualClock
) -> None:
    for _ in range(2):
        manager = Manager(store, clock, "one")
        async with campaigning(manager):
            await manager.elected.wait()
            found = await store.get(KEYS.leader)
            assert found is not None
            assert manager.fences == [Compare(KEYS.leader, found.mod_revision)]


async def test_a_leader_that_cannot_renew_stops_before_its_lease_ends(
    store: MemoryStore, clock: VirtualClock
) -> None:
    manager = Manager(store, clock, "one")
    async with campaigning(manager):
        await manager.elected.wait()
        await pass_time(clock, 1.5)
        store.set_available(False)
        await pass_time(clock, 1)
        assert manager.leads(), "one lost renewal is no loss"
        await pass_time(clock, LEASE_SECONDS - 1)
        assert not manager.leads()
        assert manager.deposed.is_set()
        store.set_available(True)
        await pass_time(clock, 2 * LEASE_SECONDS)
        assert manager.leads()
        assert len(manager.fences) == 2


async def test_a_dead_leader_is_replaced_when_its_lease_ends(store: MemoryStore, clock: VirtualClock) -> None:
    lease = await store.grant_lease(LEASE_SECONDS)
    await store.txn([], [Put(KEYS.leader, b"dead", lease)])
    manager = Manager(store, clock, "one")
    async with campaigning(manager):
        await settle()
        assert not manager.leads()
        await pass_time(clock, LEASE_SECONDS)
        assert manager.leads()


async def test_losing_the_fence_is_losing_the_leadership(store: MemoryStore, clock: VirtualClock) -> None:
    manager = Manager(store, clock, "one")
    manager.fail = ExceptionGroup("work", [FencedError("this manager is no longer the leader")])
    async with campaigning(manager):
        await manager.deposed.wait()
        manager.fail = None
        await manager.elected.wait()


async def test_an_error_of_the_work_ends_the_campaign_and_gives_the_lease_back(
    store: MemoryStore, clock: VirtualClock
) -> None:
    manager = Manager(store, clock, "one")
    manager.fail = KeyError("bug")
    with pytest.raises(KeyError, match="bug"):
        await manager.election.run(manager.lead)
    assert await manager.election.leader() == ""


async def test_work_that_ends_is_an_error(store: MemoryStore, clock: VirtualClock) -> None:
    async def nothing(fence: Compare) -> None:
        return

    with pytest.raises(EndedError):
        await Election(store, KEYS, "one", clock=clock).run(nothing)
