"""Statuses that a node reports: checked, coalesced, written.

A report is written at once. While its transaction is in flight the next ones gather, the later of two statuses of one
task winning; there is no timer. A node speaks only of its own tasks, and what was observed only grows: a report that
says otherwise is refused and logged, and the session goes on, because an agent may be a moment behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from minicommon.errors import DeadlineError, ResourceExhaustedError, UnavailableError
from minicommon.log import fields

from minimanager.domain.objects import Meta, Task, TaskState, TaskStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.store.transaction import Transaction

logger = logging.getLogger(__name__)

RETRY_NS = 200_000_000
"""Nanoseconds between attempts to write while the store does not answer."""

MAX_TEXT = 4096
"""Characters of a message or an error that are kept: enough for any, and an agent cannot fill the store."""


class Reports:
    """The statuses of one session that are not in the store yet."""

    def __init__(self, core: Core, node_id: str) -> None:
        self._core = core
        self._node_id = node_id
        self._pending: dict[str, TaskStatus] = {}
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, statuses: Iterable[TaskStatus]) -> None:
        """Take statuses in; `run` writes them."""
        for status in statuses:
            known = self._pending.get(status.id)
            if known is None or status.state >= known.state:
                self._pending[status.id] = self._trimmed(status)
        if self._pending:
            self._idle.clear()
            self._arrived.set()

    async def written(self) -> None:
        """Return once everything that arrived has been written or refused."""
        await self._idle.wait()

    def _trimmed(self, status: TaskStatus) -> TaskStatus:
        return replace(
            status,
            node_id=self._node_id,
            message=status.message[:MAX_TEXT],
            error=status.error[:MAX_TEXT],
        )

    async def run(self) -> None:
        """Write what arrives, for as long as the session lives. A store that does not answer is waited for."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._pending = self._pending, {}
            try:
                lost = await self._write_all(batch)
            except (UnavailableError, DeadlineError, ResourceExhaustedError) as error:
                extra = fields(node_id=self._node_id, statuses=len(batch), error=error.message)
                logger.warning("Statuses could not be written; trying again.", extra=extra)
                self._put_back(batch.values())
                await self._core.clock.sleep_until(self._core.clock.now_ns() + RETRY_NS)
            else:
                self._put_back(lost)
            if not self._pending:
                self._idle.set()

    def _put_back(self, lost: Iterable[TaskStatus]) -> None:
        """What was not written is written later; it never replaces something newer."""
        newer, self._pending = self._pending, {status.id: status for status in lost}
        self.add(newer.values())
        if self._pending:
            self._arrived.set()

    async def _write_all(self, batch: Mapping[str, TaskStatus]) -> list[TaskStatus]:
        """Write the batch, one guarded transaction per task, and return those that lost against another writer.

        Raises UnavailableError or DeadlineError; writing again what was written is harmless.
        """
        snapshot = self._core.cache.snapshot()
        if any(task_id not in snapshot.tasks for task_id in batch):
            snapshot = await self._core.settle()  # the task may be newer than this cache
        statuses: list[TaskStatus] = []
        transactions: list[Transaction] = []
        for status in batch.values():
            transaction = self._transaction(snapshot, status)
            if transaction is not None:
                statuses.append(status)
                transactions.append(transaction)
        outcomes = await self._core.writer.commit_all(transactions)
        lost = [s for s, outcome in zip(statuses, outcomes, strict=True) if not isinstance(outcome, int)]
        if lost:
            await self._core.settle()
        else:
            await self._core.read(
                max((outcome for outcome in outcomes if isinstance(outcome, int)), default=0)
            )
        return lost

    def _transaction(self, snapshot: Snapshot, status: TaskStatus) -> Transaction | None:
        """What writes the status; None when it is refused or says nothing new."""
        task, known = snapshot.tasks.get(status.id), snapshot.statuses.get(status.id)
        reason = self._objection(task, known, status)
        if task is None or reason:
            extra = fields(node_id=self._node_id, task_id=status.id, state=status.state.name, reason=reason)
            logger.warning("Status refused.", extra=extra)
            return None
        status = replace(status, running_since_ns=self._running_since_ns(known, status))
        if known is None:
            return self._begin(status, Meta(created_at_ns=self._core.clock.now_ns())).guard(task)
        if replace(status, meta=known.meta) == known:
            return None
        return self._begin(status, known.meta)

    def _running_since_ns(self, known: TaskStatus | None, status: TaskStatus) -> int:
        """By this manager's clock, whatever the node says: updates measure by it how long a task has run."""
        if known is not None and known.running_since_ns:
            return known.running_since_ns
        return self._core.clock.now_ns() if status.state is TaskState.RUNNING else 0

    def _objection(self, task: Task | None, known: TaskStatus | None, status: TaskStatus) -> str:
        """Why the status may not be written; empty: it may."""
        if task is None:
            return "there is no such task"
        if task.node_id != self._node_id:
            return "the task is not assigned to this node"
        if known is not None and status.state < known.state:
            return f"the state would go back from {known.state.name}"
        return ""

    def _begin(self, status: TaskStatus, meta: Meta) -> Transaction:
        written = replace(status, meta=replace(meta, updated_at_ns=self._core.clock.now_ns()))
        return self._core.writer.begin().save(written)
