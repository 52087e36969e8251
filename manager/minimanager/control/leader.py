"""Leader election: a key in the store that hangs on a lease.

Whoever creates the key leads until its lease ends. Two guards keep a former leader from writing: its work is
cancelled before the lease can have ended by its own clock, and each of its transactions compares the key's revision
(the fence), so that even a process that was frozen meanwhile changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import MiniError, ResourceExhaustedError, UnavailableError
from minicommon.supervise import EndedError

from minimanager.store.api import CompactedError, Compare, LeaseGoneError, Put, Store
from minimanager.store.keys import Keys
from minimanager.store.transaction import FencedError

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 3
"""How long a dead leader is waited for. etcd grants no lease shorter than 2 s with its default election time-out."""

_RENEWALS_PER_LEASE: Final = 3
"""Renewals in the life of one lease: two may be lost."""

_RETRY_NS: Final = SECOND // 4
"""Before a store that did not answer is asked for the leadership again."""

Lead = Callable[[Compare], Coroutine[Any, Any, Any]]


class Election:
    """Campaigns for ever, and leads whenever it has won."""

    def __init__(
        self, store: Store, keys: Keys, node_id: str, *, clock: Clock, lease_seconds: int = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._key = keys.leader
        self._node_id = node_id
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._leading = False

    @property
    def leading(self) -> bool:
        """Whether this manager leads now."""
        return self._leading

    async def leader(self) -> str:
        """The node id of the manager that leads, from the store; "" while there is none."""
        found = await self._store.get(self._key)
        return found.value.decode() if found else ""

    async def run(self, lead: Lead) -> None:
        """Run `lead(fence)` whenever this manager has been elected; cancel it when the lease is lost.

        `lead` should not return; an error of its own ends the campaign, except FencedError, which says that the
        leadership has moved on. When `run` is cancelled it waits for `lead` and gives the leadership up, so that
        another manager takes over at once.
        """
        while True:
            interrupted = False
            try:
                await self._vacant()
                async with self._lease() as (lease_id, granted_at_ns):
                    fence = await self._take(lease_id)
                    if fence is not None:
                        await self._reign(lead(fence), lease_id, granted_at_ns)
            except* FencedError:
                logger.warning("Another manager leads.", extra={"node_id": self._node_id})
            except* (UnavailableError, ResourceExhaustedError, LeaseGoneError) as errors:
                logger.warning("The election was interrupted.", extra={"reason": str(errors.exceptions[0])})
                interrupted = True
            if (
                interrupted
            ):  # not above: before Python 3.11.4 a cancellation inside `except*` comes out in a group
                await self._clock.sleep_until(self._clock.now_ns() + _RETRY_NS)

    async def _vacant(self) -> None:
        """Return once nobody leads."""
        while True:
            listed = await self._store.list(self._key)
            if not any(item.key == self._key for item in listed.items):
                return
            try:
                async for batch in self._store.watch(self._key, after=listed.revision):
                    if any(event.key == self._key and event.value is None for event in batch.events):
                        return
            except CompactedError:
                continue

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[tuple[int, int]]:
        """A lease and when it was asked for; given back at the end, which also removes the key."""
        asked_at_ns = self._clock.now_ns()
        lease_id = await self._store.grant_lease(self._lease_seconds)
        try:
            yield lease_id, asked_at_ns
        finally:
            await _uninterrupted(self._resign(lease_id))

    async def _resign(self, lease_id: int) -> None:
        try:
            await self._store.revoke_lease(lease_id)
        except MiniError as error:
            logger.warning(
                "The lease could not be given back; it ends by itself.", extra={"reason": error.message}
            )

    async def _take(self, lease_id: int) -> Compare | None:
        put = Put(self._key, self._node_id.encode(), lease_id)
        result = await self._store.txn([Compare(self._key, 0)], [put])
        return Compare(self._key, result.revision) if result.succeeded else None

    async def _reign(self, work: Coroutine[Any, Any, Any], lease_id: int, granted_at_ns: int) -> None:
        """Lead until the lease is lost; `work` has ended, whatever happens, when this returns."""
        working = asyncio.create_task(work, name="lead")
        holding = asyncio.create_task(self._hold(lease_id, granted_at_ns), name="leader lease")
        self._leading = True
        logger.info("Elected leader.", extra={"node_id": self._node_id})
        try:
            await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
            ended = working.done()
        finally:
            await _end(working, holding)
            self._leading = False
            logger.info("Not leader any more.", extra={"node_id": self._node_id})
        for task in (working, holding):
            if not task.cancelled():
                task.result()
        if ended:
            raise EndedError("the leader's work ended, but it should run until the leadership is lost")

    async def _hold(self, lease_id: int, granted_at_ns: int) -> None:
        """Renew the lease; return when it is lost or may be.

        Counted from when a renewal was asked for, not from its answer: etcd may have counted from then.
        """
        lease_ns = self._lease_seconds * SECOND
        asked_at_ns = granted_at_ns
        while True:
            ends_at_ns = asked_at_ns + lease_ns
            await self._clock.sleep_until(asked_at_ns + lease_ns // _RENEWALS_PER_LEASE)
            renewed_at_ns = self._clock.now_ns()
            if not await self._before(ends_at_ns, self._renew(lease_id)):
                return
            asked_at_ns = renewed_at_ns

    async def _renew(self, lease_id: int) -> bool:
        while True:
            try:
                return await self._store.renew_lease(lease_id)
            except UnavailableError as error:
                logger.warning(
                    "The leader's lease could not be renewed yet.", extra={"reason": error.message}
                )
                await self._clock.sleep_until(self._clock.now_ns() + _RETRY_NS)

    async def _before(self, when_ns: int, renewal: Coroutine[Any, Any, bool]) -> bool:
        """The renewal's answer, or False when there was none by `when_ns`."""
        renewing = asyncio.create_task(renewal, name="renew lease")
        expiring = asyncio.create_task(self._clock.sleep_until(when_ns), name="lease ends")
        try:
            await asyncio.wait({renewing, expiring}, return_when=asyncio.FIRST_COMPLETED)
            return renewing.done() and renewing.result()
        finally:
            await _end(renewing, expiring)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until they have ended; their results are not of interest any more."""
    for task in tasks:
        task.cancel()
    await _uninterrupted(asyncio.wait(tasks))


async def _uninterrupted(work: Awaitable[Any]) -> None:
    """Await `work` to its end, also when this task is cancelled meanwhile; the cancellation is raised after."""
    inner = asyncio.ensure_future(work)
    interrupted: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError as error:
            interrupted = error
    inner.result()
    if interrupted is not None:
        raise interrupted
