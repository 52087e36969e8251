"""Reading the ledger of deliveries, and looking whether it is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from miniproto.v1 import secrets_pb2

from minimanager.rpc.core import Core
from minimanager.store import audit
from minimanager.store.ledger import Ledger

BATCH = 512
"""Records in one message."""


class SecretAudit:
    def __init__(self, core: Core, ledger: Ledger, *, cluster_id: str) -> None:
        self._core = core
        self._ledger = ledger
        self._cluster_id = cluster_id

    async def records(
        self, *, since_ns: int = 0, secret_id: str = ""
    ) -> AsyncIterator[secrets_pb2.AuditRecords]:
        """What was recorded since then, of this secret or of all; without certificates."""
        listed = await self._ledger.read()
        batch = secrets_pb2.AuditRecords()
        for record in audit.records(listed, self._core.keys, await self._ledger.macs()):
            if record.at_ns < since_ns or (secret_id and record.secret_id != secret_id):
                continue
            record.ClearField("certificate")
            batch.records.append(record)
            if len(batch.records) == BATCH:
                yield batch
                batch = secrets_pb2.AuditRecords()
        if batch.records:
            yield batch

    async def verdict(self) -> secrets_pb2.AuditVerdict:
        """Takes a while where there are many records; the manager goes on meanwhile."""
        macs, seen = await self._ledger.macs(), self._ledger.anchor.seen
        listed = await self._ledger.read()
        found = await asyncio.to_thread(
            audit.verify, listed, self._core.keys, macs, seen, cluster_id=self._cluster_id
        )
        return secrets_pb2.AuditVerdict(
            whole=not found.problems,
            records=found.records,
            receipts=found.receipts,
            unconfirmed=found.unconfirmed,
            problems=found.problems,
            removed=found.removed,
            removed_at_ns=found.removed_at_ns,
        )
