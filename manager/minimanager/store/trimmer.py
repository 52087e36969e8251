"""Removes the oldest records of the ledger, after a look whether they are whole, and leaves a checkpoint for them.

The checkpoint, and a record that says so, are written in one transaction; from then on the records before it do not
count, and are deleted in as many transactions as it takes. A trimmer that was killed in between is completed by the
next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minicommon.clock import Clock
from minicommon.log import fields
from miniproto.v1 import secrets_pb2
from miniproto.v1.secrets_pb2 import LedgerRecord

from minimanager.store.api import Compare, Delete, KeyValue, Range, Store
from minimanager.store.audit import read, verify
from minimanager.store.checkpoint import Checkpoint
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger

logger = logging.getLogger(__name__)

SLACK: Final = 10
"""A tenth more is left alone: each removal leaves a record of its own, so there should be few."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How much stays when something is removed: so many records, and none that is older."""

    records: int
    age_ns: int


class Trimmer:
    def __init__(
        self, ledger: Ledger, store: Store, keys: Keys, clock: Clock, *, cluster_id: str, node_id: str
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._keys = keys
        self._clock = clock
        self._cluster_id = cluster_id
        self._node_id = node_id

    async def trim(self, keep: Keep, fence: Compare | None = None) -> int:
        """Remove what is too much. How many records were removed; 0 when another has changed the ledger meanwhile.

        The fence, a comparison with the leader's key, guards the checkpoint. Raises UnavailableError.
        """
        if await self._store.get(self._keys.ledger_head) is None:
            return 0  # nothing was written to it yet, or it is for an audit to look at
        checkpoint = await self._ledger.checkpoint()
        if checkpoint is None:
            self._ledger.anchor.report("the ledger's checkpoint was changed or is forged")
            return 0
        if not await self._is_too_much(checkpoint, keep):
            return 0
        seen = self._ledger.anchor.seen
        listed = await self._ledger.read()
        last = _last_to_go(listed, self._keys, checkpoint, keep, self._clock.now_ns())
        removed = 0
        if last is not None:
            verdict = await asyncio.to_thread(
                verify, listed, self._keys, await self._ledger.macs(), seen, cluster_id=self._cluster_id
            )
            wanted = Checkpoint(
                last.number, last.mac, self._clock.now_ns(), _known(checkpoint, verdict.problems)
            )
            if not await self._ledger.restart(wanted, self._record(checkpoint, wanted), fence):
                return 0
            removed = wanted.number - checkpoint.number
            checkpoint = wanted
            logger.info("The ledger was trimmed.", extra=fields(records=removed, upto=wanted.number))
        await self._delete(_before(listed, self._keys, checkpoint.number))
        return removed

    async def _is_too_much(self, checkpoint: Checkpoint, keep: Keep) -> bool:
        """Asked of a few keys, since there is nothing to do most of the time."""
        keys, first = self._keys, checkpoint.number + 1
        if checkpoint.number and await self._store.get(keys.ledger_entry(checkpoint.number)) is not None:
            return True  # whoever wrote the checkpoint did not come to delete all before it
        if await self._store.get(keys.ledger_entry(first + keep.records + keep.records // SLACK)) is not None:
            return True
        oldest = await self._store.get(keys.ledger_entry(first))
        record = read(oldest.value)[1] if oldest is not None else None
        too_old_ns = self._clock.now_ns() - keep.age_ns - keep.age_ns // SLACK
        return record is not None and record.at_ns < too_old_ns

    def _record(self, before: Checkpoint, after: Checkpoint) -> LedgerRecord:
        message = f"records {before.number + 1} to {after.number}"
        if after.problems:
            message += f", {len(after.problems)} findings"
        return LedgerRecord(
            event=secrets_pb2.LEDGER_EVENT_REMOVED,
            at_ns=after.at_ns,
            manager_id=self._node_id,
            message=message,
        )

    async def _delete(self, items: Sequence[KeyValue]) -> None:
        """In order: the last one that is there tells that something is left."""
        size = self._store.limits.max_txn_ops
        for start in range(0, len(items), size):
            await self._store.txn((), [Delete(item.key) for item in items[start : start + size]])


@dataclass(frozen=True, slots=True)
class _Last:
    number: int
    mac: bytes


def _last_to_go(listed: Range, keys: Keys, checkpoint: Checkpoint, keep: Keep, now_ns: int) -> _Last | None:
    """The newest record that is to be removed; None: none is. One that cannot be read stays, and all after it."""
    entries = [item for item in listed.items if item.key.startswith(keys.ledger_entries)]
    end = int(entries[-1].key.removeprefix(keys.ledger_entries)) if entries else 0
    last: _Last | None = None
    for item in entries:
        entry, record = read(item.value)
        if entry is None or record is None or item.key != keys.ledger_entry(record.number):
            break
        if record.number <= checkpoint.number:
            continue
        if record.number > end - keep.records and record.at_ns >= now_ns - keep.age_ns:
            break
        last = _Last(record.number, entry.mac)
    return last


def _before(listed: Range, keys: Keys, number: int) -> list[KeyValue]:
    """The entries up to this one, and the marks of their receipts, in the order of their numbers."""
    beginnings = (keys.ledger_entries, keys.ledger_receipts)
    found = [
        (int(item.key.removeprefix(beginning)), beginning != keys.ledger_receipts, item)
        for item in listed.items
        for beginning in beginnings
        if item.key.startswith(beginning)
    ]
    ordered = sorted((each for each in found if each[0] <= number), key=lambda each: each[:2])
    return [item for _, _, item in ordered]


def _known(checkpoint: Checkpoint, problems: Sequence[str]) -> tuple[str, ...]:
    return (*checkpoint.problems, *(problem for problem in problems if problem not in checkpoint.problems))
