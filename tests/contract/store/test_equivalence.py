"""Any story of transactions ends the same way in memory and in etcd: outcomes, values, revisions, watched events."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minimanager.store.api import Compare, Delete, Event, Operation, Put, Store, Txn
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.memory import MemoryStore
from support.etcd import EtcdProcess

NAMES = ("a", "b", "c", "d")
_numbers = itertools.count()

Step = dict[str, tuple[str, str]]
"""By key: how it is compared ("", "absent", "current", "stale") and what is done ("", "put", "delete")."""

STEPS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(["", "absent", "current", "stale"]), st.sampled_from(["", "put", "delete"])),
    min_size=1,
)
STORIES = st.lists(st.lists(STEPS, min_size=1, max_size=3), max_size=8)


class Teller:
    """Plays a story on one store and notes what happened, with revisions counted from the start."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._versions: dict[str, int] = {}
        self.notes: list[object] = []

    async def play(self, story: Sequence[Sequence[Step]]) -> None:
        start = (await self._store.txn([], [Put(self._prefix + "start", b"")])).revision
        revision = start
        for number, group in enumerate(story):
            txns = [self._txn(step, number) for step in independent(group)]
            results = await self._store.txn_many(txns)
            revision = max(result.revision for result in results)
            for result in results:
                found = {key: item.value for key, item in result.found.items()}
                self.notes.append((result.succeeded, result.revision - start, self._plain(found)))
            await self._remember(start)
        end = (await self._store.txn([], [Put(self._prefix + "end", b"")])).revision
        assert end == revision + 1
        self.notes.append(await self._events(start, end))

    def _txn(self, step: Step, number: int) -> Txn:
        compares: list[Compare] = []
        operations: list[Operation] = []
        for name, (comparison, operation) in sorted(step.items()):
            key, version = self._prefix + name, self._versions.get(name, 0)
            if comparison:
                compares.append(
                    Compare(key, {"absent": 0, "current": version, "stale": version + 1}[comparison])
                )
            if operation == "put":
                operations.append(Put(key, str(number).encode()))
            elif operation == "delete":
                operations.append(Delete(key))
        return Txn(tuple(compares), tuple(operations))

    async def _remember(self, start: int) -> None:
        items = (await self._store.list(self._prefix)).items
        self._versions = {item.key.removeprefix(self._prefix): item.mod_revision for item in items}
        self.notes.append(
            [
                (
                    item.key.removeprefix(self._prefix),
                    item.value,
                    item.create_revision - start,
                    item.mod_revision - start,
                )
                for item in items
            ]
        )

    async def _events(self, start: int, end: int) -> list[tuple[int, str, bytes | None]]:
        events: list[Event] = []
        async for batch in self._store.watch(self._prefix, after=start):
            events.extend(batch.events)
            if batch.revision >= end:
                break
        return sorted(
            (
                event.revision - start,
                event.key.removeprefix(self._prefix),
                event.value.value if event.value else b"-",
            )
            for event in events
        )

    def _plain(self, found: dict[str, bytes]) -> list[str]:
        """Which keys were found. The values of those that were compared with a version are not promised."""
        return sorted(key.removeprefix(self._prefix) for key in found)


def independent(group: Sequence[Step]) -> list[Step]:
    """The steps of a group without the keys that an earlier one has."""
    taken: set[str] = set()
    result = []
    for step in group:
        result.append({name: what for name, what in step.items() if name not in taken})
        taken |= step.keys()
    return result


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STORIES)
def test_both_stores_tell_the_same_story(etcd: EtcdProcess, story: Sequence[Sequence[Step]]) -> None:
    async def tell() -> None:
        await etcd.answering()
        store = EtcdStore(etcd.settings)
        prefix = f"/equivalence/{next(_numbers)}/"
        real, fake = Teller(store, prefix), Teller(MemoryStore(), prefix)
        await real.play(story)
        await fake.play(story)
        await store.close()
        assert real.notes == fake.notes

    asyncio.run(tell())
