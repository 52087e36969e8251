"""Keeps etcd's database from being full, and empties it when it is.

etcd forgets history only when it is compacted and gives space back only when it is defragmented; at its quota it raises
the alarm NOSPACE and refuses every write, until both have been done and the alarm has been disarmed. An alarm cannot be
watched, so it is asked for. Every manager does it, not the leader: with a full database no leader is elected.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from minicommon.clock import SECOND, Clock
from minicommon.errors import MiniError
from minicommon.log import fields

from minimanager.store.api import StoreStatus

logger = logging.getLogger(__name__)

CHECK_NS: Final = 5 * SECOND
"""Between two looks; one is a request that reads nothing from the disk."""

ROOM_BYTES: Final = 6 << 30
"""A database of this size is emptied before it is full, which it is at 8 GiB (`miniworker.node.etcd`)."""

PAUSE_NS: Final = 3600 * SECOND
"""Between two times of emptying one that is large without being full: what is needed may be that much."""


class Reclaimable(Protocol):
    """A store, as much of it as is needed here."""

    async def status(self) -> StoreStatus:
        """Raises UnavailableError."""

    async def reclaim(self, revision: int) -> None:
        """Forget the history before `revision`, give its space back, and take writes again. Raises MiniError."""


class SpaceKeeper:
    """Run it for as long as the manager lives, on an etcd that is ours."""

    def __init__(self, store: Reclaimable, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._reclaimed_at_ns: int | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._look()
            except MiniError as error:
                logger.warning("etcd's space could not be looked after.", extra=fields(error=error.message))
            await self._clock.sleep_until(self._clock.now_ns() + CHECK_NS)

    async def _look(self) -> None:
        status = await self._store.status()
        if not status.full and not self._large(status):
            return
        what = "full: writes are refused" if status.full else "large"
        logger.error(
            f"etcd's database is {what}. Its history is forgotten and its space given back.",
            extra=fields(bytes=status.database_bytes),
        )
        await self._store.reclaim(status.revision)
        self._reclaimed_at_ns = self._clock.now_ns()
        after = await self._store.status()
        logger.info("etcd's space was given back.", extra=fields(bytes=after.database_bytes, full=after.full))

    def _large(self, status: StoreStatus) -> bool:
        if status.database_bytes < ROOM_BYTES:
            return False
        return self._reclaimed_at_ns is None or self._clock.now_ns() - self._reclaimed_at_ns >= PAUSE_NS
