"""The reconcile loop: with decisions made for the test, and with the real ones."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from minicommon.clock import SECOND, VirtualClock
from minimanager.control.loop import Affected, Decide, Reconcile, ReconcileLoop
from minimanager.decide.actions import CreateTask, Decision, DeleteTask
from minimanager.decide.affected import affected
from minimanager.decide.reconcile import reconcile
from minimanager.domain.objects import (
    Node,
    NodeState,
    NodeStatus,
    Object,
    Service,
    ServiceSpec,
    Task,
    TaskState,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare
from minimanager.store.cache import Cache
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from minimanager.store.transaction import FencedError
from minimanager.store.writer import Writer

KEYS = Keys("c1")


class World:
    """A store with a cache and a loop on it; the loop is started by each test."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(clock=self.clock)
        self.cache = Cache(self.store, KEYS)
        self.writer = Writer(self.store, KEYS)
        self.running: list[asyncio.Task[None]] = [asyncio.create_task(self.cache.run())]

    def start(
        self, decide: Reconcile, *, affected: Affected, fence: Compare | None = None
    ) -> asyncio.Task[None]:
        numbers = itertools.count()
        wiring = Decide(decide, affected, lambda: f"id{next(numbers)}", self.clock)
        loop = asyncio.create_task(ReconcileLoop(self.cache, self.writer, wiring).run(fence))
        self.running.append(loop)
        return loop

    async def save(self, *objs: Object) -> None:
        transaction = self.writer.begin()
        for obj in objs:
            transaction.save(obj)
        await self.cache.wait_for(await self.writer.commit(transaction))

    async def until(self, holds: Callable[[Snapshot], bool]) -> Snapshot:
        with self.cache.subscribe() as changes:
            while not holds(self.cache.snapshot()):
                await changes.next()
        return self.cache.snapshot()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.cache.wait_synced()
    yield world
    for task in world.running:
        task.cancel()
    await asyncio.gather(*world.running, return_exceptions=True)


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def of_service(snapshot: Snapshot, kind: str, old: Object | None, new: Object | None) -> frozenset[str]:
    return frozenset(obj.id for obj in (old, new) if isinstance(obj, Service))


def fill(snapshot: Snapshot, dirty: frozenset[str], now_ns: int, new_id: Callable[[], str]) -> Decision:
    """As many tasks as replicas."""
    actions: list[CreateTask | DeleteTask] = []
    for service in (snapshot.services[service_id] for service_id in sorted(dirty)):
        tasks = snapshot.of_service(service.id)
        missing = service.spec.replicas - len(tasks)
        actions += [
            CreateTask(Task(new_id(), service_id=service.id), service.meta.version) for _ in range(missing)
        ]
        surplus = sorted(tasks.values(), key=lambda task: task.id)[: max(0, -missing)]
        actions += [DeleteTask(task.id, task.meta.version) for task in surplus]
    return Decision(tuple(actions))


def replicas(service_id: str, count: int) -> Service:
    return Service(service_id, spec=ServiceSpec(name=service_id, replicas=count))


async def test_what_was_there_before_is_looked_at_first(world: World) -> None:
    await world.save(replicas("a", 2), replicas("b", 3))
    world.start(fill, affected=of_service)
    await world.until(lambda snapshot: len(snapshot.tasks) == 5)


async def test_it_follows_changes_and_never_acts_twice(world: World) -> None:
    world.start(fill, affected=of_service)
    for count in (3, 1, 7, 0, 2):
        service = world.cache.snapshot().services.get("a", replicas("a", 0))
        await world.save(replace(service, spec=replace(service.spec, replicas=count)))
        await world.until(lambda snapshot, count=count: len(snapshot.tasks) == count)  # type: ignore[misc]
        await settle()
        assert len(world.cache.snapshot().tasks) == count


async def test_it_looks_again_when_the_decision_asks_for_it(world: World) -> None:
    passes: list[int] = []

    def once_later(
        snapshot: Snapshot, dirty: frozenset[str], now_ns: int, new_id: Callable[[], str]
    ) -> Decision:
        passes.append(now_ns)
        return Decision(wake_at_ns=now_ns + 5 * SECOND if len(passes) == 1 else None)

    await world.save(replicas("a", 1))
    world.start(once_later, affected=of_service)
    await settle()
    assert len(passes) == 1
    world.clock.advance(5 * SECOND)
    await settle()
    assert len(passes) == 2
    assert passes[1] - passes[0] == 5 * SECOND


async def test_losers_are_decided_anew(world: World) -> None:
    passes = itertools.count()

    def wrong_at_first(
        snapshot: Snapshot, dirty: frozenset[str], now_ns: int, new_id: Callable[[], str]
    ) -> Decision:
        decision = fill(snapshot, dirty, now_ns, new_id)
        if next(passes):
            return decision
        stale = (
            replace(action, service_version=1)
            for action in decision.actions
            if isinstance(action, CreateTask)
        )
        return Decision(tuple(stale))

    await world.save(replicas("a", 2))
    world.start(wrong_at_first, affected=of_service)
    await settle()
    assert not world.cache.snapshot().tasks
    world.clock.advance(SECOND)
    await world.until(lambda snapshot: len(snapshot.tasks) == 2)


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_done_twice(world: World) -> None:
    await world.save(replicas("a", 2))
    world.store.set_available(False)
    world.start(fill, affected=of_service)
    await settle()
    assert not world.cache.snapshot().tasks
    world.store.set_available(True)
    while len(world.cache.snapshot().tasks) < 2:
        world.clock.advance(SECOND)
        await settle()
    await settle()
    assert len(world.cache.snapshot().tasks) == 2


async def test_it_ends_when_the_leadership_has_moved_on(world: World) -> None:
    await world.save(replicas("a", 1))
    loop = world.start(fill, affected=of_service, fence=Compare(KEYS.leader, 1))
    with pytest.raises(ExceptionGroup) as caught:
        await loop
    assert caught.group_contains(FencedError)


async def test_an_error_in_a_decision_is_not_swallowed(world: World) -> None:
    def broken(snapshot: Snapshot, dirty: frozenset[str], now_ns: int, new_id: Callable[[], str]) -> Decision:
        raise KeyError("bug")

    await world.save(replicas("a", 1))
    with pytest.raises(ExceptionGroup) as caught:
        await world.start(broken, affected=of_service)
    assert caught.group_contains(KeyError, match="bug")


async def test_the_real_decisions_place_the_tasks_of_a_service(world: World) -> None:
    await world.save(
        *(Node(name) for name in "nm"), *(NodeStatus(name, state=NodeState.READY) for name in "nm")
    )
    world.start(reconcile, affected=affected)
    await world.save(replicas("a", 4))
    snapshot = await world.until(
        lambda snapshot: sum(task.state >= TaskState.ASSIGNED for task in snapshot.tasks.values()) == 4
    )
    assert {name: len(snapshot.of_node(name)) for name in "nm"} == {"n": 2, "m": 2}
    status = snapshot.node_statuses["m"]
    await world.save(replace(status, state=NodeState.DOWN))
    while len({task.id for task in world.cache.snapshot().of_node("n").values()}) < 4:
        world.clock.advance(SECOND)
        await settle()
