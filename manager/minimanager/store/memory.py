"""The `Store` in memory, with etcd's semantics: revisions, history and compaction, watches, leases, limits.

It ships with the product because whatever stands on a `Store` is tested on it; one contract suite runs on it and on a
real etcd.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from minicommon.clock import SECOND, Clock, SystemClock
from minicommon.errors import InvalidArgumentError, UnavailableError

from minimanager.store import limits as sizes
from minimanager.store.api import (
    CompactedError,
    Compare,
    Delete,
    Event,
    EventBatch,
    KeyValue,
    LeaseGoneError,
    Limits,
    Operation,
    Put,
    Range,
    StoreStatus,
    Txn,
    TxnResult,
)

VERSION: Final = "memory"


@dataclass(slots=True)
class _Lease:
    ttl_seconds: int
    ends_at_ns: int
    keys: set[str] = field(default_factory=set)


class MemoryStore:
    """One process's own etcd."""

    def __init__(self, *, clock: Clock | None = None, limits: Limits | None = None) -> None:
        self._clock = clock or SystemClock()
        self._limits = limits or Limits()
        self._revision = 1
        self._oldest = 1
        self._present: dict[str, KeyValue] = {}
        self._history: list[Event] = []
        self._changed = asyncio.Event()
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(1)
        self._expiries: set[asyncio.Task[None]] = set()
        self._available = True

    @property
    def limits(self) -> Limits:
        return self._limits

    def set_available(self, available: bool) -> None:
        """Take the store away, so that every call raises UnavailableError, or give it back. Watches wait meanwhile."""
        self._available = available
        self._notify()

    async def get(self, key: str) -> KeyValue | None:
        await self._enter()
        return self._present.get(key)

    async def list(self, prefix: str, *, revision: int = 0) -> Range:
        await self._enter()
        self._check_revision(revision)
        present = self._present if revision in (0, self._revision) else self._at(revision)
        items = tuple(present[key] for key in sorted(present) if key.startswith(prefix))
        return Range(items, self._revision if revision == 0 else revision)

    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        seen = after
        while True:
            if not self._available or seen >= self._revision:
                await self._changed.wait()
                continue
            if seen + 1 < self._oldest:
                raise CompactedError(self._oldest)
            start = bisect_right(self._history, seen, key=_revision_of)
            events = tuple(event for event in self._history[start:] if event.key.startswith(prefix))
            seen = self._revision
            yield EventBatch(seen, events)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        return (await self.txn_many([Txn(tuple(compares), tuple(operations))]))[0]

    async def txn_many(self, txns: Sequence[Txn]) -> Sequence[TxnResult]:
        sizes.check(txns, self._limits)
        sizes.check_independent(txns)
        await self._enter()
        held = [
            all(self._mod_revision(compare.key) == compare.mod_revision for compare in txn.compares)
            for txn in txns
        ]
        winners = [txn for txn, holds in zip(txns, held, strict=True) if holds]
        self._check_leases(winners)
        found = [
            {} if holds else {c.key: self._present[c.key] for c in txn.compares if c.key in self._present}
            for txn, holds in zip(txns, held, strict=True)
        ]
        self._write([operation for txn in winners for operation in txn.operations])
        return [TxnResult(holds, self._revision, was) for holds, was in zip(held, found, strict=True)]

    async def grant_lease(self, ttl_seconds: int) -> int:
        await self._enter()
        lease_id = next(self._lease_ids)
        self._leases[lease_id] = _Lease(ttl_seconds, self._clock.now_ns() + ttl_seconds * SECOND)
        expiry = asyncio.create_task(self._expire(lease_id), name=f"lease {lease_id}")
        self._expiries.add(expiry)
        expiry.add_done_callback(self._expiries.discard)
        return lease_id

    async def renew_lease(self, lease_id: int) -> bool:
        await self._enter()
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.ends_at_ns = self._clock.now_ns() + lease.ttl_seconds * SECOND
        return True

    async def revoke_lease(self, lease_id: int) -> None:
        await self._enter()
        self._end_lease(lease_id)

    async def compact(self, revision: int) -> None:
        await self._enter()
        if revision > self._revision:
            raise InvalidArgumentError(f"revision: at most {self._revision} has been reached, got {revision}")
        if revision > self._oldest:
            self._forget_before(revision)

    async def status(self) -> StoreStatus:
        await self._enter()
        size = sum(len(item.key) + len(item.value) for item in self._present.values())
        return StoreStatus(VERSION, (), self._revision, size)

    async def close(self) -> None:
        expiries = tuple(self._expiries)
        for expiry in expiries:
            expiry.cancel()
        await asyncio.gather(*expiries, return_exceptions=True)

    # --- inside ---

    async def _enter(self) -> None:
        """Every call lets others run, as a call over a network does."""
        await asyncio.sleep(0)
        if not self._available:
            raise UnavailableError("the store in memory has been made unavailable")

    def _mod_revision(self, key: str) -> int:
        present = self._present.get(key)
        return present.mod_revision if present else 0

    def _check_revision(self, revision: int) -> None:
        if revision > self._revision:
            raise InvalidArgumentError(f"revision: at most {self._revision} has been reached, got {revision}")
        if revision and revision < self._oldest:
            raise CompactedError(self._oldest)

    def _check_leases(self, txns: Sequence[Txn]) -> None:
        for txn in txns:
            for operation in txn.operations:
                if (
                    isinstance(operation, Put)
                    and operation.lease_id
                    and operation.lease_id not in self._leases
                ):
                    raise LeaseGoneError(f"lease {operation.lease_id} has ended")

    def _write(self, operations: Sequence[Operation]) -> None:
        """One revision for all; removing what is not there is no change."""
        revision = self._revision + 1
        events = [event for operation in operations if (event := self._apply(operation, revision))]
        if events:
            self._revision = revision
            self._history.extend(events)
            self._notify()

    def _apply(self, operation: Operation, revision: int) -> Event | None:
        old = self._present.pop(operation.key, None)
        if old and old.lease_id in self._leases:
            self._leases[old.lease_id].keys.discard(operation.key)
        if not isinstance(operation, Put):
            return Event(operation.key, None, revision) if old else None
        created = old.create_revision if old else revision
        new = KeyValue(operation.key, operation.value, created, revision, operation.lease_id)
        self._present[operation.key] = new
        if operation.lease_id:
            self._leases[operation.lease_id].keys.add(operation.key)
        return Event(operation.key, new, revision)

    def _at(self, revision: int) -> dict[str, KeyValue]:
        present: dict[str, KeyValue] = {}
        for event in self._history[: bisect_right(self._history, revision, key=_revision_of)]:
            if event.value is None:
                present.pop(event.key, None)
            else:
                present[event.key] = event.value
        return present

    def _forget_before(self, revision: int) -> None:
        """Keep of the history what `revision` shows, the last value of each key, and what came later."""
        kept = [Event(value.key, value, value.mod_revision) for value in self._at(revision).values()]
        later = self._history[bisect_right(self._history, revision, key=_revision_of) :]
        self._history = sorted(kept, key=_revision_of) + later
        self._oldest = revision

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _expire(self, lease_id: int) -> None:
        while (lease := self._leases.get(lease_id)) and lease.ends_at_ns > self._clock.now_ns():
            await self._clock.sleep_until(lease.ends_at_ns)
        self._end_lease(lease_id)

    def _end_lease(self, lease_id: int) -> None:
        from_lease = self._leases.pop(lease_id, None)
        if from_lease:
            self._write([Delete(key) for key in sorted(from_lease.keys)])


def _revision_of(event: Event) -> int:
    return event.revision
