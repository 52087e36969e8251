"""Who is connected to this manager, and what becomes of a node that is not.

A node is READY while it holds a session. When it is silent for three heartbeats it is DOWN; when its connection was
cut it has a short grace to come back, a longer one when its agent said goodbye; when it leaves it is DOWN at once
(`Membership.Leave` writes that). A node that was DOWN twice in a short time has to hold its next session for a while
before it is READY again, so that a flapping link does not drag tasks to and fro. A node has one session: a newer one
supersedes the older. After a start of the manager the nodes that it held have twice the time of a silent one, since
they need a moment to notice and to dial again (SwarmKit: `dispatcher.gracePeriod*`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from minicommon.clock import SECOND, Clock
from minicommon.errors import (
    ConflictError,
    DeadlineError,
    MiniError,
    ResourceExhaustedError,
    UnavailableError,
)
from minicommon.log import fields
from minicommon.supervise import Supervisor

from minimanager.domain.objects import ClusterSpec, NodeState
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.dispatcher.node_record import NodeRecords

logger = logging.getLogger(__name__)

MISSED_HEARTBEATS = 3
"""Heartbeats that a node may miss before it is DOWN (SwarmKit: `defaultGracePeriodMultiplier`)."""

RESTART_FACTOR = 2
"""A restarted manager waits this many times longer for the nodes it held."""

RECONNECT_GRACE_NS = 5 * SECOND // 2
"""A node whose connection was cut has this long to come back. A killed agent that is started again is back within
1.5 s; half a second is left to start its tasks elsewhere within three."""

PROBATION_LOSSES = 2
"""From this many losses in a row on a node has to hold its session before it is READY."""

RETRY_NS = SECOND
"""Between attempts to write that a node is down while the store does not answer."""

STOPPING = "the manager is stopping"


def silence_ns(spec: ClusterSpec) -> int:
    """How long a node may be silent, in nanoseconds."""
    return MISSED_HEARTBEATS * spec.heartbeat_period_ns


def probation_ns(spec: ClusterSpec, losses: int) -> int:
    """How long a node that comes back holds its session before it is READY, in nanoseconds."""
    return silence_ns(spec) if losses >= PROBATION_LOSSES else 0


class Closable(Protocol):
    """A session, as much of it as presence needs."""

    def close(self, reason: MiniError) -> None:
        """End the session's stream with this error."""


class Presence:
    """The sessions by node, and a timer for each node that should come back."""

    def __init__(self, records: NodeRecords, clock: Clock, supervisor: Supervisor) -> None:
        self._records = records
        self._clock = clock
        self._supervisor = supervisor
        self._sessions: dict[str, Closable] = {}
        self._absences: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def connected(self, node_id: str) -> bool:
        """Whether the node holds a session with this manager."""
        return node_id in self._sessions

    def expect(self, snapshot: Snapshot) -> None:
        """After a start: the nodes that this manager held should come back."""
        spec = snapshot.cluster.spec if snapshot.cluster else ClusterSpec()
        grace_ns = RESTART_FACTOR * silence_ns(spec)
        for status in snapshot.node_statuses.values():
            if status.state is NodeState.READY and self._records.mine(status):
                self._await_return(status.id, grace_ns, "node did not reconnect after the manager's restart")

    def arrive(self, node_id: str, session: Closable) -> None:
        """The node opened this session; an older one ends. Raises UnavailableError while the manager stops."""
        if self._closed:
            raise UnavailableError(STOPPING)
        absence = self._absences.pop(node_id, None)
        if absence is not None:
            absence.cancel()
        older = self._sessions.get(node_id)
        self._sessions[node_id] = session
        if older is not None:
            logger.warning("Session superseded.", extra=fields(node_id=node_id))
            older.close(ConflictError(f"the session of node {node_id} was superseded by a newer one"))

    def depart(self, node_id: str, session: Closable, *, grace_ns: int, message: str) -> None:
        """This session ended; unless a newer one has taken its place, the node has `grace_ns` to come back."""
        if self._sessions.get(node_id) is not session:
            return
        del self._sessions[node_id]
        self._await_return(node_id, grace_ns, message)

    def forget(self, node_id: str, reason: MiniError) -> None:
        """The node was removed from the cluster: its session ends, nothing is awaited."""
        absence = self._absences.pop(node_id, None)
        if absence is not None:
            absence.cancel()
        session = self._sessions.pop(node_id, None)
        if session is not None:
            session.close(reason)

    def close_all(self, reason: MiniError) -> None:
        """The manager stops: every session ends, and no node is called down for it."""
        self._closed = True
        for absence in self._absences.values():
            absence.cancel()
        self._absences.clear()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close(reason)

    def _await_return(self, node_id: str, grace_ns: int, message: str) -> None:
        if self._closed:
            return
        deadline_ns = self._clock.now_ns() + grace_ns
        work = self._call_down(node_id, deadline_ns, message)
        self._absences[node_id] = self._supervisor.start(f"absence of {node_id}", work)

    async def _call_down(self, node_id: str, deadline_ns: int, message: str) -> None:
        while True:
            if deadline_ns > self._clock.now_ns():
                await self._clock.sleep_until(deadline_ns)
            try:
                news = await self._records.down(node_id, message, still=lambda: not self.connected(node_id))
            except (UnavailableError, DeadlineError, ConflictError, ResourceExhaustedError) as error:
                logger.warning(
                    "Node could not be recorded as down; trying again.",
                    extra=fields(node_id=node_id, error=error.message),
                )
                deadline_ns = self._clock.now_ns() + RETRY_NS
                continue
            if self._absences.get(node_id) is asyncio.current_task():
                del self._absences[node_id]
            if news:
                logger.info("Node is down.", extra=fields(node_id=node_id, reason=message))
            return
