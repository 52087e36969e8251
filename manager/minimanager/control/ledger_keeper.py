"""Keeps the ledger of deliveries as long as the cluster wants it, on the leader."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import ResourceExhaustedError, UnavailableError
from minicommon.log import fields

from minimanager.domain.objects import Cluster
from minimanager.store.api import Compare
from minimanager.store.cache import Cache, Subscription
from minimanager.store.checkpoint import DEFAULT_AGE_NS, DEFAULT_RECORDS
from minimanager.store.envelope import SealError
from minimanager.store.keys import Kind
from minimanager.store.trimmer import Keep, Trimmer

logger = logging.getLogger(__name__)

PERIOD_NS: Final = 3600 * SECOND
"""Between two looks: each one that removes something leaves a record, and a ledger does not grow that fast."""


class LedgerKeeper:
    """Runs on the leader, one at a time in the whole cluster."""

    def __init__(self, cache: Cache, trimmer: Trimmer, clock: Clock) -> None:
        self._cache = cache
        self._trimmer = trimmer
        self._clock = clock

    async def run(self, fence: Compare | None = None) -> None:
        """Trim now and then until cancelled."""
        await self._cache.wait_synced()
        with self._cache.subscribe() as changes:
            while True:
                cluster = self._cache.snapshot().cluster
                if cluster is not None:
                    await self._trim(kept(cluster), fence)
                await self._wait(changes)

    async def _trim(self, keep: Keep, fence: Compare | None) -> None:
        try:
            await self._trimmer.trim(keep, fence)
        except (UnavailableError, ResourceExhaustedError, SealError) as error:
            logger.warning("The ledger could not be trimmed yet.", extra=fields(error=error.message))

    async def _wait(self, changes: Subscription) -> None:
        """For a period, or until the cluster's settings change."""
        waiting = {
            asyncio.ensure_future(_cluster_changed(changes)),
            asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ns() + PERIOD_NS)),
        }
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _cluster_changed(changes: Subscription) -> None:
    async for change_set in changes:
        if any(change.kind is Kind.CLUSTER for change in change_set.changes):
            return


def kept(cluster: Cluster) -> Keep:
    """What the cluster's settings say of its ledger."""
    spec = cluster.spec
    return Keep(spec.ledger_records or DEFAULT_RECORDS, spec.ledger_age_ns or DEFAULT_AGE_NS)
