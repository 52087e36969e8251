"""The leader's slow work on the cluster's security: forgetting what has expired, and completing changes of keys.

Everything is a function of what is in the store, so a new leader goes on where the last one was cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import ConflictError, ResourceExhaustedError, UnavailableError
from minicommon.log import fields

from minimanager.ca.keyholder import acknowledgment
from minimanager.ca.sealer import ClusterSealer
from minimanager.control.rewrap import rewrap_all
from minimanager.decide.upkeep import Upkeep, root_progress, upkeep, with_next_root
from minimanager.domain.objects import Cluster, NodeRole, Object
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare, Store, TooLargeError
from minimanager.store.cache import Cache, ChangeSet
from minimanager.store.envelope import Envelope, SealError
from minimanager.store.keys import Kind
from minimanager.store.transaction import FencedError
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

_News = Callable[[], Awaitable[ChangeSet]]

_RETRY_NS: Final = SECOND // 2
"""After a store that did not answer, and between looks at what other managers say of their keys."""

DRAIN_NS: Final = 10 * SECOND
"""A write that was sealed with the old cluster key just before the new one came into use has ended by then: etcd has 5
seconds to answer it."""

_KINDS: Final = frozenset({Kind.CLUSTER, Kind.NODE, Kind.NODE_STATUS, Kind.TOKEN, Kind.CLIENT})
"""Changes of these may make work."""


class UpkeepLoop:
    """Runs on the leader, one at a time in the whole cluster."""

    def __init__(
        self,
        cache: Cache,
        writer: Writer,
        store: Store,
        envelope: Envelope,
        clock: Clock,
        *,
        drain_ns: int = DRAIN_NS,
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._store = store
        self._envelope = envelope
        self._sealer = ClusterSealer(envelope)
        self._clock = clock
        self._drain_ns = drain_ns
        self._sealing_since: dict[int, int] = {}

    async def run(self, fence: Compare | None = None) -> None:
        """Until cancelled. Raises FencedError when the leadership has moved on."""
        await self._cache.wait_synced()
        with self._cache.subscribe() as changes:
            while True:
                again_at_ns = await self._pass(fence)
                await self._wait(changes.next, again_at_ns)

    async def _wait(self, news: _News, until_ns: int | None) -> None:
        """Until an object changes that may make work, or the moment has come."""
        deadline = None if until_ns is None else asyncio.ensure_future(self._clock.sleep_until(until_ns))
        try:
            while True:
                waiting = asyncio.ensure_future(news())
                ends = {waiting} if deadline is None else {waiting, deadline}
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if not waiting.done():
                        return
                    if any(change.kind in _KINDS for change in waiting.result().changes):
                        return
                finally:
                    waiting.cancel()
        finally:
            if deadline is not None:
                deadline.cancel()

    async def _pass(self, fence: Compare | None) -> int | None:
        """Do what there is to do; when to look again, None: when something changes."""
        try:
            snapshot, now_ns = self._cache.snapshot(), self._clock.now_ns()
            if snapshot.cluster is None:
                return None
            wanted = upkeep(snapshot, now_ns)
            await self._forget(snapshot.cluster, wanted, fence)
            await self._finish_root(snapshot, snapshot.cluster, now_ns, fence)
            rekeying = await self._rekey(snapshot, snapshot.cluster, fence)
        except (UnavailableError, ResourceExhaustedError, TooLargeError, SealError) as error:
            logger.warning("The upkeep of the cluster's keys was interrupted.", extra=fields(error=error))
            return self._clock.now_ns() + _RETRY_NS
        except FencedError:
            raise
        except ConflictError:
            return self._clock.now_ns() + _RETRY_NS  # somebody wrote meanwhile: look at what is there now
        moments = [moment for moment in (wanted.wake_at_ns, rekeying) if moment is not None]
        return min(moments, default=None)

    async def _forget(self, cluster: Cluster, wanted: Upkeep, fence: Compare | None) -> None:
        forgotten: list[Object] = [*wanted.tokens, *wanted.clients]
        for gone in forgotten:
            await self._writer.commit(self._writer.begin().delete(gone), fence=fence)
        if wanted.removed_nodes is not None:
            kept = replace(cluster, removed_nodes=wanted.removed_nodes)
            await self._writer.commit(self._writer.begin().replace(kept), fence=fence)

    # --- the root ---

    async def _finish_root(
        self, snapshot: Snapshot, cluster: Cluster, now_ns: int, fence: Compare | None
    ) -> None:
        """The new root becomes the only one when every node has a certificate of it and trusts it."""
        rotation = cluster.root_rotation
        if not rotation.active or root_progress(snapshot, cluster, rotation.issuer, now_ns).waiting:
            return
        authority = self._sealer.authority(cluster)
        changed = with_next_root(
            cluster, sealed_root_key=self._sealer.root_key(authority.key_pem), now_ns=now_ns
        )
        changed = replace(
            changed,
            worker_token=self._sealer.join_token(NodeRole.WORKER, changed.root_ca_pem),
            manager_token=self._sealer.join_token(NodeRole.MANAGER, changed.root_ca_pem),
        )
        await self._writer.commit(self._writer.begin().replace(changed), fence=fence)
        logger.info("The cluster's root has changed.", extra=fields(issuer=rotation.issuer))

    # --- the cluster key ---

    async def _rekey(self, snapshot: Snapshot, cluster: Cluster, fence: Compare | None) -> int | None:
        """One step of a change of the cluster key; when to look again, if it waits for other managers."""
        if not cluster.sealed_next_key:
            return None
        present, following = cluster.key_id, cluster.next_key_id
        known = frozenset({following - 1, following})
        if await self._managers_without(snapshot, acknowledgment(present, known)):
            return self._clock.now_ns() + _RETRY_NS
        if present != following:
            await self._change(cluster, fence, key_id=following)
            return self._clock.now_ns() + _RETRY_NS
        self._sealing_since.setdefault(following, self._clock.now_ns())
        drained_at_ns = self._sealing_since[following] + self._drain_ns
        if self._clock.now_ns() < drained_at_ns:
            return drained_at_ns
        if await rewrap_all(self._store, self._writer.keys, self._envelope):
            return self._clock.now_ns()  # the next pass shows whether anything is left
        await self._change(cluster, fence, sealed_next_key=b"", next_key_id=0)
        logger.info("The cluster key has changed.", extra=fields(key_id=following))
        return None

    async def _managers_without(self, snapshot: Snapshot, said: bytes) -> list[str]:
        """Managers whose disk is not known to be that far."""
        keys = self._writer.keys
        listed = await self._store.list(keys.key_holders)
        there = {item.key.removeprefix(keys.key_holders) for item in listed.items if item.value == said}
        return [
            node.id
            for node in snapshot.nodes.values()
            if node.spec.role is NodeRole.MANAGER and node.id not in there
        ]

    async def _change(self, cluster: Cluster, fence: Compare | None, **changes: int | bytes) -> None:
        meta = replace(cluster.meta, updated_at_ns=self._clock.now_ns())
        changed = replace(cluster, meta=meta, **changes)  # type: ignore[arg-type]
        await self._writer.commit(self._writer.begin().replace(changed), fence=fence)
