"""One manager's connection to the store: slow, cut at times, and now and then a transaction or its answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random

from minicommon.errors import UnavailableError
from minimanager.store.api import (
    Compare,
    EventBatch,
    KeyValue,
    Limits,
    Operation,
    Range,
    Store,
    StoreStatus,
    Txn,
    TxnResult,
)
from support.sim.virtual_time import VirtualTime

TIMEOUT_SECONDS = 5.0
"""After which a call that gets no answer fails, as with etcd."""


@dataclass(slots=True)
class Faults:
    """How bad the connection is. `lost` and `unanswered` are shares of the transactions."""

    latency: float = 0.002
    """Seconds; calls take up to twice as long, events up to ten times."""
    lost: float = 0.0
    """Never arrive."""
    unanswered: float = 0.0
    """Are done, but who asked is not told."""


class FaultyStore:
    """A `Store` before another one."""

    def __init__(self, inner: Store, clock: VirtualTime, dice: Random, faults: Faults) -> None:
        self._inner = inner
        self._clock = clock
        self._dice = dice
        self.faults = faults
        self._whole = asyncio.Event()
        self._whole.set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def limits(self) -> Limits:
        return self._inner.limits

    def cut(self) -> None:
        """Nothing comes through until `mend`."""
        self._whole.clear()

    def stall(self) -> None:
        """Everything waits until `mend`, and then goes on as if nothing had been: a process that was frozen."""
        self._flowing.clear()

    def mend(self) -> None:
        self._whole.set()
        self._flowing.set()

    async def get(self, key: str) -> KeyValue | None:
        await self._travel()
        return await self._inner.get(key)

    async def list(self, prefix: str, *, revision: int = 0) -> Range:
        await self._travel()
        return await self._inner.list(prefix, revision=revision)

    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        async for batch in self._inner.watch(prefix, after=after):
            await self._clock.sleep(self._dice.uniform(0, 10 * self.faults.latency))
            await self._whole.wait()
            await self._flowing.wait()
            yield batch

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        return (await self.txn_many([Txn(tuple(compares), tuple(operations))]))[0]

    async def txn_many(self, txns: Sequence[Txn]) -> Sequence[TxnResult]:
        await self._travel()
        fate = self._dice.random()
        if fate < self.faults.lost:
            raise await self._no_answer()
        results = await self._inner.txn_many(txns)
        if fate < self.faults.lost + self.faults.unanswered or not self._whole.is_set():
            raise await self._no_answer()
        return results

    async def grant_lease(self, ttl_seconds: int) -> int:
        await self._travel()
        return await self._inner.grant_lease(ttl_seconds)

    async def renew_lease(self, lease_id: int) -> bool:
        await self._travel()
        return await self._inner.renew_lease(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        await self._travel()
        await self._inner.revoke_lease(lease_id)

    async def compact(self, revision: int) -> None:
        await self._travel()
        await self._inner.compact(revision)

    async def status(self) -> StoreStatus:
        await self._travel()
        return await self._inner.status()

    async def close(self) -> None:
        """The store belongs to all managers."""

    async def _travel(self) -> None:
        await self._clock.sleep(self._dice.uniform(0, 2 * self.faults.latency))
        await self._flowing.wait()
        if not self._whole.is_set():
            raise await self._no_answer()

    async def _no_answer(self) -> UnavailableError:
        """At once, as when a connection is reset, or after the time-out."""
        await self._clock.sleep(self._dice.choice((0.0, self._dice.uniform(0.1, TIMEOUT_SECONDS))))
        return UnavailableError("the store does not answer")
