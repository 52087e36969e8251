"""The newest assignments for every connected node.

Most of what a node is told others are told as well: it comes from the groups that the node is in (`groups.py`). What is
the node's own, and which groups it is in, is computed only for nodes that a change touched; and a change of a group
wakes its members only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from minicommon.clock import Clock, SystemClock

from minimanager.decide.assignments import Item, TaskAssignment, own_assignments, peer_key
from minimanager.domain.objects import Network, Task, TaskStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.dispatcher.delta import Delta, difference
from minimanager.rpc.dispatcher.frontier import Frontier, LocalFrontier, Pace
from minimanager.rpc.dispatcher.groups import (
    NOTHING_YET,
    Group,
    all_groups,
    groups_of,
    items_of,
    touched_groups,
)
from minimanager.rpc.dispatcher.trust import Roots
from minimanager.store.cache import Cache, Change, ChangeSet
from minimanager.store.keys import Kind

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
        self._own: Mapping[str, Item] = {}
        self._held: dict[str, tuple[int, Mapping[str, Item]]] = {}
        """What the node has been told of each of its groups, and when."""

    def wake(self, *, touched: bool) -> None:
        """Something changed; `touched`: something of this node's own."""
        self._touched = self._touched or touched
        self._pending = True
        self._wake.set()

    def holds(self, group: str) -> bool:
        """Whether the node was last told of the group."""
        return group in self._held

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
        snapshot = self._feed.snapshot
        delta: Delta[Item] = Delta({})
        if self._touched:
            self._touched = False
            own = self._withdrawn(own_assignments(snapshot, self.node_id))
            delta = difference(self._own, own).then(self._move(groups_of(snapshot, self.node_id)))
            self._own = own
        for name, (sequence, items) in self._held.items():
            group = self._feed.group(name)
            delta = delta.then(group.since(sequence, items))
            self._held[name] = (group.sequence, group.items)
        delta = delta.without(peer_key(self.node_id))
        if not self._started:
            self._started = True
            return Update(snapshot.revision, delta, complete=True)
        return Update(snapshot.revision, delta) if delta else None

    def _move(self, groups: frozenset[str]) -> Delta[Item]:
        """Leave the groups that the node is in no more; what is to be told of new ones comes from their whole sets."""
        removed: set[str] = set()
        for name in self._held.keys() - groups:
            _, items = self._held.pop(name)
            removed.update(items)
        for name in groups - self._held.keys():
            self._held[name] = (NOTHING_YET, {})
        return Delta({}, frozenset(removed))

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
        self._groups: dict[str, Group] = {}
        self._begun = False
        self.frontier = LocalFrontier(lambda: self.snapshot)
        self.snapshot = Snapshot()
        self.roots = Roots()

    async def run(self) -> None:
        """Follow the cache for as long as the manager lives."""
        async for change_set in self._changes:
            self._follow(change_set)

    def subscribe(self, node_id: str) -> Subscription:
        """A place in the feed that begins with the complete set of what the cache has now."""
        pending = self._changes.poll()
        self._follow(pending or ChangeSet(self._changes.revision, ()))
        subscription = Subscription(self, node_id, self._clock)
        self._sessions.add(subscription)
        self.frontier.enter(node_id, subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._sessions.discard(subscription)
        self.frontier.leave(subscription.node_id, subscription)

    def group(self, name: str) -> Group:
        """The group as of `snapshot`; an empty one when there is no such network any more."""
        return self._groups.get(name) or Group()

    def _follow(self, change_set: ChangeSet) -> None:
        """Take in what changed; the cache has nothing newer, for nothing else runs in between."""
        self.snapshot = self._cache.snapshot()
        self._advance(change_set.changes)
        nodes = touched_nodes(self.snapshot, change_set.changes)
        for subscription in self._sessions:
            if nodes is None or subscription.node_id in nodes:
                subscription.wake(touched=True)
        self.frontier.look()
        for change in change_set.changes:
            if change.kind is Kind.NODE and change.new is None:
                self._removed(change.id)

    def _advance(self, changes: tuple[Change, ...]) -> None:
        snapshot = self.snapshot
        self.roots.follow(snapshot)
        names = touched_groups(snapshot, changes) if self._begun else all_groups(snapshot)
        self._begun = True
        gone = names - all_groups(snapshot)
        for name in names:
            group = self._groups.setdefault(name, Group())
            if group.become(items_of(snapshot, name)):
                for subscription in self._sessions:
                    if subscription.holds(name):
                        subscription.wake(touched=False)
            if name in gone:
                del self._groups[name]


def touched_nodes(snapshot: Snapshot, changes: Iterable[Change]) -> set[str] | None:
    """The nodes whose own assignments or groups the changes, which `snapshot` has, may alter; None: all."""
    nodes: set[str] = set()
    for change in changes:
        if any(isinstance(side, Network) and side.spec.ingress for side in (change.old, change.new)):
            return None
        if change.kind is Kind.NETWORK:
            nodes.update(task.node_id for task in snapshot.of_network(change.id).values())
        if change.kind is Kind.NODE:
            nodes.add(change.id)
        nodes.update(
            side.node_id for side in (change.old, change.new) if isinstance(side, (Task, TaskStatus))
        )
    return nodes
