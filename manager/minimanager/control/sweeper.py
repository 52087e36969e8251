"""The sweep: claims on addresses whose owner does not have them, which nothing else would ever give back.

Claims and owners change in the same transactions, so there are none, unless there is a bug or somebody changed the
store by hand. An address that leaked is one that no task can have, so the leader looks from time to time, says what it
finds, and gives it back.
"""

from __future__ import annotations

import logging
from typing import Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import ConflictError, DeadlineError, ResourceExhaustedError, UnavailableError
from minicommon.log import fields

from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare, KeyValue, Store
from minimanager.store.cache import Cache
from minimanager.store.keys import AddressClaim, Keys
from minimanager.store.transaction import FencedError
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

PERIOD_NS: Final = 600 * SECOND
"""Between two sweeps: a leak costs an address, not a request, and a sweep reads every claim."""


class Sweeper:
    """Runs on the leader, beside the reconcile loop."""

    def __init__(self, store: Store, cache: Cache, writer: Writer, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._writer = writer
        self._clock = clock

    async def run(self, fence: Compare | None = None) -> None:
        """Sweep now and then until cancelled. Raises FencedError when the leadership has moved on."""
        while True:
            try:
                await self.sweep(fence)
            except FencedError:
                raise
            except (UnavailableError, DeadlineError, ResourceExhaustedError) as error:
                logger.warning("Addresses could not be swept.", extra=fields(reason=error.message))
            await self._clock.sleep_until(self._clock.now_ns() + PERIOD_NS)

    async def sweep(self, fence: Compare | None = None) -> int:
        """Give back the claims on addresses that nobody has. How many there were.

        A claim is compared with a snapshot that is as new or newer, and given back only if it has not changed since:
        so a claim that was made or moved meanwhile stays.
        """
        keys = self._writer.keys
        found = await self._store.list(keys.addresses)
        await self._cache.wait_for(await self._writer.commit(self._writer.begin().barrier(), fence=fence))
        leaked = leaked_addresses(keys, self._cache.snapshot(), found.items)
        for claim in leaked:
            logger.warning(
                "An address had no owner; it is free again.",
                extra=fields(key=claim.key, owner=claim.value.decode(errors="replace")),
            )
        transactions = [
            self._writer.begin().release(claim.key, version=claim.mod_revision) for claim in leaked
        ]
        outcomes = await self._writer.commit_all(transactions, fence=fence)
        for outcome in outcomes:
            if isinstance(outcome, FencedError):
                raise outcome
        return sum(not isinstance(outcome, ConflictError) for outcome in outcomes)


def leaked_addresses(keys: Keys, snapshot: Snapshot, claims: tuple[KeyValue, ...]) -> list[KeyValue]:
    """Those of `claims` whose owner does not have the address, according to a snapshot that is not older."""
    owners = _owners(snapshot)
    leaked = []
    for claim in claims:
        parsed = keys.parse(claim.key)
        if isinstance(parsed, AddressClaim):
            owner = owners.get((parsed.network_id, parsed.address))
            if owner is None or owner != claim.value.decode(errors="replace"):
                leaked.append(claim)
    return leaked


def _owners(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """Who has which address of which network."""
    owners: dict[tuple[str, str], str] = {}
    for task in snapshot.tasks.values():
        for attachment in task.attachments:
            owners[attachment.network_id, attachment.address] = task.id
    for service in snapshot.services.values():
        if not service.removing:
            for virtual in service.virtual_addresses:
                owners[virtual.network_id, virtual.address] = service.id
    ingress = snapshot.ingress
    if ingress is not None:
        for node in snapshot.nodes.values():
            owners[ingress.id, node.ingress_address] = node.id
    return owners
