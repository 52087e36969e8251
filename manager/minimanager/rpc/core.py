"""What every servicer of the manager works with, passed in once.

Reads come from the watch cache, writes go through the group-committing writer, and a write that lost against
another one is decided anew on a cache that has seen the winner.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from minicommon.clock import Clock
from minicommon.errors import DeadlineError, UnavailableError
from minicommon.ids import new_id
from minicommon.log import fields

from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Put, Store
from minimanager.store.cache import Cache
from minimanager.store.keys import Keys
from minimanager.store.transaction import ClaimTakenError, StaleError, Transaction
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

READ_TIMEOUT = 5.0
"""Seconds that a read waits for the revision it asked for before it says that this manager is behind."""

ATTEMPTS = 16
"""Times that a change which any newer state would also allow is tried against concurrent writers."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Core:
    cache: Cache
    writer: Writer
    store: Store
    keys: Keys
    clock: Clock
    node_id: str
    """The manager's own node."""
    new_id: Callable[[], str] = new_id

    async def read(self, min_revision: int = 0) -> Snapshot:
        """A snapshot at least as new as `min_revision`; 0: what the cache has.

        Raises DeadlineError when the cache does not get there within READ_TIMEOUT.
        """
        if min_revision > self.cache.snapshot().revision:
            await self.cache.wait_for(min_revision, READ_TIMEOUT)
        return self.cache.snapshot()

    async def commit(self, transaction: Transaction) -> int:
        """Write, and return the revision once this manager's own reads show it.

        Raises StaleError or ClaimTakenError. A write that is done is never reported as failed: a cache that lags is
        only logged.
        """
        revision = await self.writer.commit(transaction)
        try:
            await self.read(revision)
        except DeadlineError:
            logger.warning("The cache lags behind a write.", extra=fields(revision=revision))
        return revision

    async def settle(self) -> Snapshot:
        """A snapshot that has everything written before this call, by whomever.

        It writes a key of no meaning and waits to see it: the one barrier that holds over several etcd members, and
        in an etcd whose revisions others move too.
        """
        result = await self.store.txn((), (Put(f"{self.keys.prefix}barrier", b""),))
        return await self.read(result.revision)

    async def leader(self) -> str:
        """Id of the node whose manager leads now; empty: none does, or the store that knows does not answer."""
        try:
            holder = await self.store.get(self.keys.leader)
        except UnavailableError as error:
            logger.warning("Nobody says who leads.", extra=fields(error=error.message))
            return ""
        return "" if holder is None else holder.value.decode()

    async def retried(self, attempt: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Run `attempt` on a snapshot, and again on a newer one while it loses against concurrent writers.

        Raises StaleError or ClaimTakenError after ATTEMPTS losses. A ConflictError that `attempt` raises by itself, for
        a version that the caller gave, is not tried again.
        """
        snapshot = self.cache.snapshot()
        for _ in range(ATTEMPTS - 1):
            try:
                return await attempt(snapshot)
            except (StaleError, ClaimTakenError):
                snapshot = await self.settle()
        return await attempt(snapshot)
