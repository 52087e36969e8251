"""What lists and watches promise, on any store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import cast

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.store.api import CompactedError, Delete, EventBatch, Put, Store


def watching(store: Store, prefix: str, after: int) -> aclosing[_Batches]:
    return aclosing(cast(_Batches, store.watch(prefix, after=after)))


class _Batches(AsyncIterator[EventBatch]):
    """What `watch` returns is a generator, which a test ends by closing it."""

    async def aclose(self) -> None: ...


async def until(batches: AsyncIterator[EventBatch], revision: int) -> list[EventBatch]:
    found: list[EventBatch] = []
    async for batch in batches:
        found.append(batch)
        if batch.revision >= revision:
            break
    return found


async def put(store: Store, key: str, value: bytes) -> int:
    return (await store.txn([], [Put(key, value)])).revision


async def test_a_list_is_in_key_order_and_of_its_prefix_only(store: Store, prefix: str) -> None:
    for name in ("b/2", "b/1", "a", "c"):
        await put(store, prefix + name, name.encode())
    listed = await store.list(prefix + "b/")
    assert [item.key for item in listed.items] == [prefix + "b/1", prefix + "b/2"]


async def test_a_long_list_is_of_one_revision(store: Store, prefix: str) -> None:
    wanted = [f"{prefix}{number:05}" for number in range(12_000)]
    for start in range(0, len(wanted), 4_000):
        await store.txn([], [Put(key, b"") for key in wanted[start : start + 4_000]])
    listed = await store.list(prefix)
    assert [item.key for item in listed.items] == wanted


async def test_the_past_can_be_listed(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    await put(store, prefix + "a", b"2")
    await store.txn([], [Delete(prefix + "a")])
    past = await store.list(prefix, revision=first)
    assert [item.value for item in past.items] == [b"1"]
    assert past.revision == first
    assert (await store.list(prefix)).items == ()


async def test_the_future_cannot_be_listed(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    with pytest.raises(InvalidArgumentError, match="revision"):
        await store.list(prefix, revision=revision + 1000)


async def test_a_watch_begins_after_its_revision_and_goes_on(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    second = await put(store, prefix + "a", b"2")
    async with watching(store, prefix, first) as batches:
        seen = await until(batches, second)
        third = (await store.txn([], [Delete(prefix + "a")])).revision
        seen += await until(batches, third)
    events = [event for batch in seen for event in batch.events]
    assert [(event.revision, event.value and event.value.value) for event in events] == [
        (second, b"2"),
        (third, None),
    ]


async def test_events_of_other_prefixes_are_not_seen(store: Store, prefix: str) -> None:
    start = await put(store, prefix + "a/1", b"1")
    await put(store, prefix + "b/1", b"1")
    last = await put(store, prefix + "a/2", b"1")
    async with watching(store, prefix + "a/", start) as batches:
        seen = await until(batches, last)
    assert [event.key for batch in seen for event in batch.events] == [prefix + "a/2"]


async def test_a_revision_is_never_split(store: Store, prefix: str) -> None:
    """Also when the answer is so big that etcd cuts it into fragments."""
    start = (await store.list(prefix)).revision
    value = bytes(1024)
    async with watching(store, prefix, start) as batches:
        writes = [await store.txn([], [Put(f"{prefix}{n}", value) for n in range(4_000)]) for _ in range(2)]
        seen = await until(batches, writes[-1].revision)
    counts: dict[int, int] = {}
    for batch in seen:
        for event in batch.events:
            counts[event.revision] = counts.get(event.revision, 0) + 1
            assert event.revision <= batch.revision
        assert {event.revision for event in batch.events}.isdisjoint(
            event.revision for other in seen if other is not batch for event in other.events
        )
    assert counts == {write.revision: 4_000 for write in writes}


async def test_a_compacted_revision_cannot_be_listed_and_says_what_can(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    for _ in range(3):
        last = await put(store, prefix + "a", b"2")
    await store.compact(last)
    await store.compact(first)  # already gone: no error
    with pytest.raises(CompactedError) as caught:
        await store.list(prefix, revision=first)
    assert caught.value.revision == last
    assert [item.value for item in (await store.list(prefix, revision=last)).items] == [b"2"]


async def test_a_watch_from_a_compacted_revision_says_so(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    for _ in range(3):
        last = await put(store, prefix + "a", b"2")
    await store.compact(last)
    async with watching(store, prefix, first) as batches:
        with pytest.raises(CompactedError) as caught:
            await anext(batches)
    assert caught.value.revision == last


async def test_a_compaction_does_not_disturb_a_watch_that_keeps_up(store: Store, prefix: str) -> None:
    start = await put(store, prefix + "a", b"1")
    async with watching(store, prefix, start) as batches:
        last = await put(store, prefix + "a", b"2")
        await until(batches, last)
        await store.compact(last)
        after = await put(store, prefix + "a", b"3")
        seen = await until(batches, after)
    assert [event.value and event.value.value for batch in seen for event in batch.events] == [b"3"]


async def test_a_future_revision_cannot_be_compacted(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    with pytest.raises(InvalidArgumentError):
        await store.compact(revision + 1000)


async def test_a_watch_that_is_given_up_ends(store: Store, prefix: str) -> None:
    async def read() -> None:
        async with watching(store, prefix, (await store.list(prefix)).revision) as batches:
            await anext(batches)

    reader = asyncio.create_task(read())
    await store.list(prefix)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_status_tells_the_version_and_the_revision(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    status = await store.status()
    assert status.version
    assert status.revision >= revision
    assert status.database_bytes > 0
