"""The newest assignments for every connected node.

Most of what a node is told is the same for all: endpoints and published ports. That part is computed once per
snapshot, as a difference to the one before, and kept in a short log; a session that was sending meanwhile takes the
log's tail as one change. What is the node's own is computed only for nodes that a change touched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from minicommon.clock import Clock, SystemClock

from minimanager.decide.assignments import Item, TaskAssignment, own_assignments, shared_assignments
from minimanager.domain.objects import Task, TaskStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.dispatcher.delta import Delta, difference, merged
from minimanager.rpc.dispatcher.frontier import Frontier, LocalFrontier, Pace
from minimanager.store.cache import Cache, Change, ChangeSet
from minimanager.store.keys import Kind

LOG_LENGTH = 128
"""Shared changes that are kept; a session further behind compares whole sets instead."""

_SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Update:
    """What one node is to be told next. `complete`: the whole set."""

    revision: int
    delta: Delta[Item]
    complete: bool = False


class Subscription:
    """One session's place in the feed."""

    def __init__(self, feed: Feed, node_id: str, clock: Clock) -> None:
        self.node_id = node_id
        self._feed = feed
        self._pace = Pace(clock)
        self._wake = asyncio.Event()
        self._touched = True
        self._started = False
        self._pending = True
        """Something changed that has not been looked at yet."""
        self._sequence = 0
        self._shared: Mapping[str, Item] = {}
        self._own: Mapping[str, Item] = {}

    def wake(self, *, touched: bool) -> None:
        """Something changed; `touched`: something of this node's own."""
        self._touched = self._touched or touched
        self._pending = True
        self._wake.set()

    def touch(self) -> None:
        """Something may have changed that is this node's own."""
        self.wake(touched=True)

    def applied(self, revision: int) -> None:
        """The node says that its kernel follows `revision`."""
        self._pace.applied(revision)
        self._feed.frontier.look()

    def follows(self, revision: int) -> bool:
        """Whether the node's kernel follows `revision`, or has nothing to follow up to there."""
        if self._pace.revision >= revision:
            return True
        has_all = self._pace.settled and not self._pending
        return has_all and self._feed.snapshot.revision >= revision

    @property
    def stuck(self) -> bool:
        """Whether the node has not come forward for so long that nobody waits for it any more."""
        return self._pace.stuck

    async def next(self) -> Update:
        """Wait for the next change that this node must hear of. The first is the complete set, at once."""
        while True:
            update = self._take()
            self._pending = False
            if update is not None:
                self._pace.told(update.revision)
                return update
            self._feed.frontier.look()  # it had nothing to hear, so it follows
            await self._wake.wait()

    def _take(self) -> Update | None:
        self._wake.clear()
        feed = self._feed
        delta = feed.since(self._sequence, self._shared)
        self._sequence, self._shared = feed.sequence, feed.shared
        if self._touched:
            self._touched = False
            own = self._withdrawn(own_assignments(feed.snapshot, self.node_id))
            delta = delta.then(difference(self._own, own))
            self._own = own
        if not self._started:
            self._started = True
            return Update(feed.snapshot.revision, delta, complete=True)
        return Update(feed.snapshot.revision, delta) if delta else None

    def _withdrawn(self, own: Mapping[str, Item]) -> Mapping[str, Item]:
        """The node's own items, with the tasks that may be stopped because no node sends them anything new any more."""
        frontier: Frontier = self._feed.frontier
        items: dict[str, Item] = {}
        for key, item in own.items():
            if isinstance(item, TaskAssignment) and item.left_at:
                if frontier.passed(item.left_at):
                    item = replace(item, withdrawn=True)
                else:
                    frontier.notify(item.left_at, self.touch)
            items[key] = item
        return items


class Feed:
    """Follows the cache and wakes the sessions that a change concerns.

    `removed` is called with the id of each node that is no longer in the cluster.
    """

    def __init__(self, cache: Cache, removed: Callable[[str], None], *, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._cache = cache
        self._removed = removed
        self._changes = cache.subscribe()
        self._clock = clock
        self._sessions: set[Subscription] = set()
        self.frontier = LocalFrontier(lambda: self.snapshot)
        self._log: deque[Delta[Item]] = deque(maxlen=LOG_LENGTH)
        self.snapshot = Snapshot()
        self.shared: Mapping[str, Item] = {}
        self.sequence = 0

    async def run(self) -> None:
        """Follow the cache for as long as the manager lives."""
        async for change_set in self._changes:
            self._follow(change_set)

    def subscribe(self, node_id: str) -> Subscription:
        """A place in the feed that begins with the complete set of what the cache has now."""
        pending = self._changes.poll()
        if pending is not None:
            self._follow(pending)
        self._advance()
        subscription = Subscription(self, node_id, self._clock)
        self._sessions.add(subscription)
        self.frontier.enter(node_id, subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._sessions.discard(subscription)
        self.frontier.leave(subscription.node_id, subscription)

    def since(self, sequence: int, held: Mapping[str, Item]) -> Delta[Item]:
        """What turns the shared part `held`, which is as of `sequence`, into the newest."""
        behind = self.sequence - sequence
        if behind > len(self._log):
            return difference(held, self.shared)
        return merged(islice(self._log, len(self._log) - behind, None))

    def _follow(self, change_set: ChangeSet) -> None:
        self._advance()
        nodes = touched_nodes(change_set.changes)
        for subscription in self._sessions:
            if nodes is None or subscription.node_id in nodes:
                subscription.wake(touched=True)
        self.frontier.look()
        for change in change_set.changes:
            if change.kind is Kind.NODE and change.new is None:
                self._removed(change.id)

    def _advance(self) -> None:
        snapshot = self._cache.snapshot()
        if snapshot is self.snapshot:
            return
        shared = shared_assignments(snapshot)
        delta = difference(self.shared, shared)
        self.snapshot = snapshot
        if not delta:
            return
        self.shared = shared
        self.sequence += 1
        self._log.append(delta)
        for subscription in self._sessions:
            subscription.wake(touched=False)


def touched_nodes(changes: Iterable[Change]) -> set[str] | None:
    """The nodes whose own assignments the changes may alter; None: all."""
    nodes: set[str] = set()
    for change in changes:
        if change.kind is Kind.NETWORK:
            return None
        if change.kind is Kind.NODE:
            nodes.add(change.id)
        nodes.update(
            side.node_id for side in (change.old, change.new) if isinstance(side, (Task, TaskStatus))
        )
    return nodes
