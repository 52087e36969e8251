"""The watch cache on the store in memory: snapshots, waiting, following, falling behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minicommon.errors import DeadlineError
from minimanager import codec
from minimanager.domain.objects import Cluster, NetworkAttachment, Node, Object, Service, Task
from minimanager.store.api import CompactedError, Delete, EventBatch, Operation, Put
from minimanager.store.cache import Cache
from minimanager.store.keys import Keys, Kind
from minimanager.store.memory import MemoryStore

KEYS = Keys("c1")


async def write(store: MemoryStore, *objs: Object) -> int:
    return (await store.txn([], [Put(KEYS.of(obj), codec.encode(obj)) for obj in objs])).revision


async def remove(store: MemoryStore, *objs: Object) -> int:
    return (await store.txn([], [Delete(KEYS.of(obj)) for obj in objs])).revision


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def cache(store: MemoryStore) -> AsyncIterator[Cache]:
    cache = Cache(store, KEYS)
    following = asyncio.create_task(cache.run())
    await cache.wait_synced()
    yield cache
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_it_begins_with_what_is_there(store: MemoryStore) -> None:
    revision = await write(store, Cluster("c1"), Service("s"), Task("t", service_id="s", node_id="n"))
    cache = Cache(store, KEYS)
    following = asyncio.create_task(cache.run())
    await cache.wait_for(revision)
    snapshot = cache.snapshot()
    assert snapshot.revision == revision
    assert snapshot.cluster is not None
    assert snapshot.services["s"].meta.version == revision
    assert set(snapshot.of_service("s")) == set(snapshot.of_node("n")) == {"t"}
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_snapshot_never_changes(store: MemoryStore, cache: Cache) -> None:
    task = Task("t", service_id="s")
    await cache.wait_for(await write(store, task, Service("s")))
    before = cache.snapshot()
    await cache.wait_for(await write(store, replace(task, node_id="n"), Node("n")))
    await cache.wait_for(await remove(store, Service("s")))
    after = cache.snapshot()
    assert (set(before.services), set(before.nodes), before.tasks["t"].node_id) == ({"s"}, set(), "")
    assert (set(before.unassigned), set(before.of_node("n"))) == ({"t"}, set())
    assert (set(after.services), set(after.nodes), after.tasks["t"].node_id) == (set(), {"n"}, "n")
    assert (set(after.unassigned), set(after.of_node("n"))) == (set(), {"t"})


async def test_what_did_not_change_is_shared_and_an_idle_cache_makes_nothing(
    store: MemoryStore, cache: Cache
) -> None:
    await cache.wait_for(await write(store, Task("t", service_id="s"), Node("n")))
    before = cache.snapshot()
    assert cache.snapshot() is before
    await cache.wait_for(await write(store, Node("m")))
    after = cache.snapshot()
    assert after.tasks is before.tasks
    assert after.nodes is not before.nodes


async def test_claims_move_the_revision_and_nothing_else(store: MemoryStore, cache: Cache) -> None:
    before = cache.snapshot()
    result = await store.txn([], [Put(KEYS.name(Kind.SERVICE, "web"), b"s")])
    await cache.wait_for(result.revision)
    assert cache.snapshot() == replace(before, revision=result.revision)


async def test_a_revision_that_does_not_come_ends_the_wait(cache: Cache) -> None:
    with pytest.raises(DeadlineError, match=r"has not seen revision 99 within 0\.01 s"):
        await cache.wait_for(99, timeout=0.01)


async def test_a_subscriber_sees_each_change(store: MemoryStore, cache: Cache) -> None:
    with cache.subscribe() as changes:
        revision = await write(store, Node("n"))
        seen = await changes.next()
        assert seen.revision == revision
        assert [(change.kind, change.id, change.old) for change in seen.changes] == [(Kind.NODE, "n", None)]
        await remove(store, Node("n"))
        (change,) = (await changes.next()).changes
        assert change.new is None
        assert change.old is not None


async def test_a_slow_subscriber_gets_the_sum(store: MemoryStore, cache: Cache) -> None:
    await cache.wait_for(await write(store, Node("old")))
    with cache.subscribe() as changes:
        for _ in range(50):
            await write(store, Node("old"), Node("new"), Node("short"))
        await remove(store, Node("old"))
        last = await remove(store, Node("short"))
        await cache.wait_for(last)
        seen = await changes.next()
        assert seen.revision == last
        assert {change.id: (change.old is None, change.new is None) for change in seen.changes} == {
            "old": (False, True),
            "new": (True, False),
        }
        assert changes.poll() is None


async def test_a_closed_subscription_ends(store: MemoryStore, cache: Cache) -> None:
    changes = cache.subscribe()
    reading = asyncio.create_task(anext(changes, None))
    await asyncio.sleep(0)
    changes.close()
    assert await reading is None
    await cache.wait_for(await write(store, Node("n")))
    assert changes.poll() is None


async def test_an_object_that_cannot_be_read_stops_the_cache(store: MemoryStore) -> None:
    await store.txn([], [Put(KEYS.object(Kind.SERVICE, "s"), b"\xff")])
    with pytest.raises(codec.CorruptError):
        await Cache(store, KEYS).run()


class Lossy(MemoryStore):
    """Every watch falls behind the compaction after `patience` batches."""

    patience = 1

    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        left = self.patience
        async for batch in super().watch(prefix, after=after):
            if not left:
                raise CompactedError(batch.revision)
            left -= 1
            yield batch


NODES = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(NODES, max_size=12))
def test_following_the_changes_always_leads_to_the_snapshot(
    writes: Sequence[Sequence[tuple[str, bool]]],
) -> None:
    """Also over compactions: the difference between two lists has no gap."""

    async def story() -> None:
        store = Lossy()
        cache = Cache(store, KEYS)
        following = asyncio.create_task(cache.run())
        await cache.wait_synced()
        known: dict[str, Object] = {}
        with cache.subscribe() as changes:
            for step in writes:
                operations: dict[str, Operation] = {}
                for name, present in step:
                    node = Node(name)
                    operations[name] = (
                        Put(KEYS.of(node), codec.encode(node)) if present else Delete(KEYS.of(node))
                    )
                result = await store.txn([], list(operations.values()))
                await cache.wait_for(result.revision)
                for change in seen.changes if (seen := changes.poll()) else ():
                    assert known.get(change.id) == change.old
                    if change.new is None:
                        del known[change.id]
                    else:
                        known[change.id] = change.new
                assert known == cache.snapshot().nodes
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(story())


async def test_tasks_are_found_by_the_networks_they_are_on(store: MemoryStore, cache: Cache) -> None:
    both = (NetworkAttachment("a", "10.0.0.2"), NetworkAttachment("b", "10.0.1.2"))
    await cache.wait_for(await write(store, Task("t", attachments=both), Task("u", attachments=both[:1])))
    before = cache.snapshot()
    await cache.wait_for(await write(store, Task("t", attachments=both[1:], slot=3)))
    after = cache.snapshot()
    await cache.wait_for(await remove(store, Task("t"), Task("u")))
    assert (set(before.of_network("a")), set(before.of_network("b"))) == ({"t", "u"}, {"t"})
    assert (set(after.of_network("a")), after.of_network("b")["t"].slot) == ({"u"}, 3)
    assert not cache.snapshot().tasks_by_network
