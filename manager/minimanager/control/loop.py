"""The reconcile loop: changes make services dirty, dirty services are decided on, decisions are committed.

Level-triggered: a decision depends on the snapshot and the time, never on which change woke it. The loop waits until
the cache has seen its own commit before it decides again, so no decision is taken twice. There is no debounce: while
a commit is in flight the next services gather in the queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from minicommon.clock import SECOND, Clock
from minicommon.errors import DeadlineError, ResourceExhaustedError, UnavailableError
from minicommon.supervise import Supervisor

from minimanager.control.committer import Committed, Committer
from minimanager.control.queue import WorkQueue
from minimanager.decide.actions import Decision
from minimanager.decide.affected import everything
from minimanager.domain.objects import Object
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare, TooLargeError
from minimanager.store.cache import Cache
from minimanager.store.changes import Subscription
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

Reconcile = Callable[[Snapshot, frozenset[str], int, Callable[[], str]], Decision]
"""(snapshot, ids of the services to look at, now in nanoseconds since the epoch, makes an id) -> what to do."""

Affected = Callable[[Snapshot, str, Object | None, Object | None], frozenset[str]]
"""(snapshot, kind, old, new) -> ids of the services that the change makes dirty."""


_RETRY_NS: Final = SECOND // 4
"""Before a store that did not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Decide:
    """The decisions that the loop carries out, and what they may not get for themselves: time and ids."""

    reconcile: Reconcile
    affected: Affected
    new_id: Callable[[], str]
    clock: Clock


class ReconcileLoop:
    """Runs on the leader, one at a time in the whole cluster."""

    def __init__(self, cache: Cache, writer: Writer, decide: Decide) -> None:
        self._cache = cache
        self._writer = writer
        self._decide = decide

    async def run(self, fence: Compare | None = None) -> None:
        """Reconcile until cancelled. Raises, in a group, FencedError when the leadership has moved on."""
        queue = WorkQueue(self._decide.clock)
        committer = Committer(self._writer, fence)
        await self._cache.wait_synced()
        if fence is not None:
            await self._see(fence.mod_revision)
        with self._cache.subscribe() as changes:
            for service_id in everything(self._cache.snapshot()):
                queue.add(service_id)
            async with Supervisor() as group:
                group.start_eternal("reconcile: follow changes", self._follow(changes, queue))
                group.start_eternal("reconcile: delayed work", queue.run())
                group.start_eternal("reconcile: work", self._work(queue, committer))

    async def _follow(self, changes: Subscription, queue: WorkQueue) -> None:
        async for change_set in changes:
            snapshot = self._cache.snapshot()
            for change in change_set.changes:
                for service_id in self._decide.affected(snapshot, change.kind, change.old, change.new):
                    queue.add(service_id)

    async def _work(self, queue: WorkQueue, committer: Committer) -> None:
        while True:
            await self._pass(queue, await queue.take(), committer)

    async def _pass(self, queue: WorkQueue, dirty: frozenset[str], committer: Committer) -> None:
        """Decide on the dirty services, commit, and see the result before the next pass."""
        snapshot, now_ns = self._cache.snapshot(), self._decide.clock.now_ns()
        decision = self._decide.reconcile(snapshot, dirty, now_ns, self._decide.new_id)
        try:
            committed = await committer.commit(snapshot, decision.actions)
        except (UnavailableError, ResourceExhaustedError, TooLargeError) as error:
            logger.warning("A decision could not be committed.", extra={"reason": error.message})
            await self._resync(committer)
            queue.failed(dirty)
            return
        await self._see(committed.revision)
        if decision.wake_at_ns is not None:
            for service_id in dirty:
                queue.add_at(service_id, decision.wake_at_ns)
        _log(decision, committed)
        lost = frozenset(loser.service_id for loser in committed.losers) & dirty
        queue.failed(lost)
        queue.done(dirty - lost)

    async def _resync(self, committer: Committer) -> None:
        """After a commit whose outcome is unknown: see what became of it, or new tasks would be created twice."""
        while True:
            try:
                return await self._see(await committer.barrier())
            except (UnavailableError, ResourceExhaustedError):
                await self._decide.clock.sleep_until(self._decide.clock.now_ns() + _RETRY_NS)

    async def _see(self, revision: int) -> None:
        """Return when the cache has seen `revision`, which is certain to come: it is of one of our keys."""
        while True:
            try:
                return await self._cache.wait_for(revision)
            except DeadlineError as error:
                logger.warning("The loop waits for the cache.", extra={"reason": error.message})


def _log(decision: Decision, committed: Committed) -> None:
    if decision.actions:
        logger.debug(
            "Committed a decision.",
            extra={
                "actions": len(decision.actions),
                "lost": len(committed.losers),
                "revision": committed.revision,
            },
        )
    for loser in committed.losers:
        logger.debug(
            "An action was overtaken.", extra={"service_id": loser.service_id, "reason": loser.error.message}
        )
