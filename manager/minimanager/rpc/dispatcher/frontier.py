"""Up to which revision the nodes follow: when a task that left the tables may be drained and stopped.

A node says which revision is in its kernel. A revision is *passed* once every living node follows it: then no node
leads a new connection to a task that left the tables at it. Living is a node that is READY: one that is down holds
nothing up, one whose connection was just lost does until it is DOWN or back, since its kernel goes on with the old
table. Nor does one hold anything up that has been told something and has not come forward for PATIENCE_NS. There is no
timer here: the node of the task waits for its own deadline, so that a manager that dies in between leaves nothing
hanging.

With several managers each knows the sessions of its own nodes only. Each would then keep the lowest revision of its
nodes under a key of its own with a lease (`frontier/<manager>`), and `passed` would ask for the lowest of all such keys
that its cache has; a node of a manager without a key counts as one without a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from minicommon.clock import SECOND, Clock

from minimanager.domain.objects import NodeState
from minimanager.domain.snapshot import Snapshot

PATIENCE_NS = 5 * SECOND
"""How long a node may stay behind without coming forward before others do not wait for it any more: as long as a task
waits (`miniworker.agent.task_runner.WITHDRAW_NS`), so a sick node costs the cluster that time once."""


class Frontier(Protocol):
    """How far the nodes follow."""

    def passed(self, revision: int) -> bool:
        """Whether every living node follows `revision`."""

    def notify(self, revision: int, wake: Callable[[], None]) -> None:
        """Call `wake` once `revision` has been passed, or earlier; the same one twice counts once."""


class Place(Protocol):
    """A session, as much of it as the frontier needs."""

    def follows(self, revision: int) -> bool:
        """Whether the node follows `revision`, or nothing of it concerns the node."""

    @property
    def stuck(self) -> bool:
        """Whether the node has been behind for too long to be waited for."""


class Pace:
    """What one node has been told, and what it has applied of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = 0
        self._applied = 0
        self._since_ns = 0

    def told(self, revision: int) -> None:
        """The node is being sent what changed up to `revision`."""
        if self.settled:
            self._since_ns = self._clock.now_ns()
        self._told = revision

    def applied(self, revision: int) -> None:
        """The node says that its kernel follows `revision`."""
        if revision > self._applied:
            self._applied = revision
            self._since_ns = self._clock.now_ns()

    @property
    def revision(self) -> int:
        """What the node's kernel follows; 0: nothing is known."""
        return self._applied

    @property
    def settled(self) -> bool:
        """Whether the node has applied all that it was told."""
        return self._applied >= self._told

    @property
    def stuck(self) -> bool:
        return not self.settled and self._clock.now_ns() - self._since_ns >= PATIENCE_NS


class LocalFrontier:
    """The frontier of a manager that holds the sessions of all nodes."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._places: dict[str, Place] = {}
        self._waiting: dict[int, set[Callable[[], None]]] = {}
        self._behind: dict[int, str] = {}
        """By revision, a node that had not passed it when last seen: as a rule it still has not."""

    def enter(self, node_id: str, place: Place) -> None:
        """The node has this session now, in place of an older one."""
        self._places[node_id] = place
        self.look()

    def leave(self, node_id: str, place: Place) -> None:
        """The session has ended; nothing when the node has another one already."""
        if self._places.get(node_id) is place:
            del self._places[node_id]

    def passed(self, revision: int) -> bool:
        snapshot = self._snapshot()
        known = self._behind.get(revision)
        if known is not None and self._is_behind(snapshot, known, revision):
            return False
        behind = next((each for each in snapshot.nodes if self._is_behind(snapshot, each, revision)), None)
        if behind is not None:
            self._behind[revision] = behind
            return False
        self._behind.pop(revision, None)
        return True

    def notify(self, revision: int, wake: Callable[[], None]) -> None:
        self._waiting.setdefault(revision, set()).add(wake)

    def look(self) -> None:
        """A node may have come forward, or be gone: wake those who wait for what is passed now."""
        for revision in [revision for revision in self._waiting if self.passed(revision)]:
            for wake in self._waiting.pop(revision):
                wake()

    def _is_behind(self, snapshot: Snapshot, node_id: str, revision: int) -> bool:
        status = snapshot.node_statuses.get(node_id)
        if node_id not in snapshot.nodes or status is None or status.state is not NodeState.READY:
            return False
        place = self._places.get(node_id)
        return place is None or not (place.follows(revision) or place.stuck)
