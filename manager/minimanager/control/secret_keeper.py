"""Carries out what `decide.rotations` decides, on the leader."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import ConflictError, MiniError
from minicommon.log import fields

from minimanager.decide.rotations import SaveSecret, rotations
from minimanager.store.api import Compare
from minimanager.store.cache import Cache
from minimanager.store.changes import Subscription
from minimanager.store.transaction import FencedError, Transaction
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

_RETRY_NS: Final = SECOND // 4
"""Before a store that did not answer is asked again."""


class SecretKeeper:
    """Runs on the leader, one at a time in the whole cluster."""

    def __init__(self, cache: Cache, writer: Writer, clock: Clock) -> None:
        self._cache = cache
        self._writer = writer
        self._clock = clock

    async def run(self, fence: Compare | None = None) -> None:
        """Work until cancelled. Raises FencedError when the leadership has moved on."""
        await self._cache.wait_synced()
        with self._cache.subscribe() as changes:
            while True:
                wake_at_ns = await self._pass(fence)
                await self._wait(changes, wake_at_ns)

    async def _pass(self, fence: Compare | None) -> int | None:
        decided = rotations(self._cache.snapshot(), self._clock.now_ns())
        if not decided.actions:
            return decided.wake_at_ns
        again_ns = self._clock.now_ns()
        for action in decided.actions:
            try:
                revision = await self._writer.commit(self._transaction(action), fence=fence)
                await self._cache.wait_for(revision)
            except FencedError:
                raise
            except ConflictError:  # something of it has changed
                again_ns = self._clock.now_ns() + _RETRY_NS
            except MiniError as error:
                logger.warning(
                    "A secret's rotation could not be written yet.",
                    extra=fields(secret_id=action.secret.id, error=error.message),
                )
                again_ns = self._clock.now_ns() + _RETRY_NS
        return again_ns

    def _transaction(self, action: SaveSecret) -> Transaction:
        transaction = self._writer.begin().replace(action.secret)
        for service in action.services:
            transaction.replace(service)
        for number in action.removed:
            transaction.delete_content(self._writer.keys.secret_content(action.secret.id, number))
        return transaction

    async def _wait(self, changes: Subscription, wake_at_ns: int | None) -> None:
        """Until something changes, or the time has come."""
        waiting: set[asyncio.Task[object]] = {asyncio.create_task(_taken(changes))}
        if wake_at_ns is not None:
            waiting.add(asyncio.create_task(_slept(self._clock, wake_at_ns)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _taken(changes: Subscription) -> object:
    return await changes.next()


async def _slept(clock: Clock, until_ns: int) -> object:
    await clock.sleep_until(until_ns)
    return None
