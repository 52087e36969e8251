"""The watch cache: every object of the cluster in memory, at one revision, as immutable snapshots.

List at a revision, watch from it; when the history needed has been compacted, list again and work out the
difference, so that whoever follows the changes sees no gap. Reads come from here; no write trusts it, for a write
compares versions inside its transaction.

Snapshots are copy-on-write: taking one only marks the dictionaries as shared; the next change to one of them copies
that one. So an idle cache costs nothing, and a busy one copies once per snapshot taken, not once per change.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from typing import Final, NoReturn

from minicommon.errors import DeadlineError

from minimanager import codec
from minimanager.domain.objects import Object
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import CompactedError, EventBatch, Range, Store
from minimanager.store.changes import Change, ChangeSet, Subscription
from minimanager.store.keys import Keys, Kind, ObjectKey
from minimanager.store.tables import Tables

__all__ = ["Cache", "Change", "ChangeSet", "Subscription"]

logger = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5.0
"""How long a read waits for a revision unless told: as long as a request to etcd may take."""


class Cache:
    """Follows the store while `run` runs. All methods are for the event loop's thread."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._tables = Tables()
        self._revision = 0
        self._synced = asyncio.Event()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()
        self._subscriptions: dict[Subscription, None] = {}
        """In the order in which they came, which is that in which they hear of a change."""

    @property
    def revision(self) -> int:
        """What the cache has seen; 0 before the first list."""
        return self._revision

    @property
    def synced(self) -> bool:
        """Whether the first list has been read."""
        return self._synced.is_set()

    def snapshot(self) -> Snapshot:
        """All objects at `revision`. The same object again while nothing changes."""
        return self._tables.snapshot(self._revision)

    def subscribe(self) -> Subscription:
        """Every change after the present snapshot.

        Take `snapshot()` without an `await` in between and nothing is missed or seen twice. Close it, or use it in a
        `with` block.
        """
        subscription = Subscription(self._revision, self._forget)
        self._subscriptions[subscription] = None
        return subscription

    async def wait_synced(self) -> None:
        """Return once the first list has been read."""
        await self._synced.wait()

    async def wait_for(self, revision: int, timeout: float = WAIT_SECONDS) -> None:
        """Return once the cache has seen `revision`; `timeout` in seconds. Raises DeadlineError."""
        if self.synced and self._revision >= revision:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._synced.wait()
                if self._revision < revision:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    heapq.heappush(self._waiters, (revision, next(self._sequence), future))
                    await future
        except TimeoutError as error:
            self._forget_cancelled()
            raise DeadlineError(
                f"this manager has not seen revision {revision} within {timeout:g} s; it is at {self._revision}"
            ) from error

    def _forget_cancelled(self) -> None:
        """A revision that never comes must not leave its waiters behind."""
        self._waiters = [waiter for waiter in self._waiters if not waiter[2].done()]
        heapq.heapify(self._waiters)

    async def run(self) -> NoReturn:
        """Follow the store for ever.

        Raises CorruptError when an object cannot be read: decisions taken without it would act as if it had been
        removed, so the manager must stop instead.
        """
        while True:
            await self._list()
            try:
                async for batch in self._store.watch(self._keys.prefix, after=self._revision):
                    self._apply(batch)
            except CompactedError as error:
                logger.warning(
                    "The watch fell behind the compaction; listing again.",
                    extra={"revision": self._revision, "oldest": error.revision},
                )

    async def _list(self) -> None:
        listed = await self._store.list(self._keys.prefix)
        changes = self._difference(listed)
        self._revision = listed.revision
        self._publish(changes)
        self._synced.set()

    def _difference(self, listed: Range) -> list[Change]:
        """Apply a whole list; what changed against what was known, removals included."""
        gone = self._tables.keys()
        changes: list[Change] = []
        for item in listed.items:
            key = self._keys.parse(item.key)
            if not isinstance(key, ObjectKey):
                continue
            gone.discard((key.kind, key.id))
            known = self._tables.get(key.kind, key.id)
            if known is None or known.meta.version != item.mod_revision:
                obj = codec.decode(key.kind, item.value, item.mod_revision)
                changes.append(self._change(key.kind, key.id, obj))
        changes.extend(self._change(kind, object_id, None) for kind, object_id in sorted(gone))
        return changes

    def _apply(self, batch: EventBatch) -> None:
        changes: list[Change] = []
        for event in batch.events:
            key = self._keys.parse(event.key)
            if isinstance(key, ObjectKey):
                obj = codec.decode(key.kind, event.value.value, event.revision) if event.value else None
                changes.append(self._change(key.kind, key.id, obj))
        self._revision = max(self._revision, batch.revision)
        self._publish(changes)

    def _change(self, kind: Kind, object_id: str, new: Object | None) -> Change:
        return Change(kind, object_id, self._tables.put(kind, object_id, new), new)

    def _publish(self, changes: list[Change]) -> None:
        self._tables.at(self._revision)
        while self._waiters and self._waiters[0][0] <= self._revision:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)
        for subscription in self._subscriptions:
            subscription.add(self._revision, changes)

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
