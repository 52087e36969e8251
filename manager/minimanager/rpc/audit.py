"""Reads the audit journals: this manager's own, and those of the others, which it asks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from grpc import aio
from minicommon.errors import InvalidArgumentError
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials
from minicommon.rpc.gate import identity
from miniproto.v1 import security_pb2, security_pb2_grpc

from minimanager.audit.journal import FileJournal, Query
from minimanager.rpc.requests import check

Context = aio.ServicerContext[Any, Any]

DEFAULT_LIMIT: Final = 1000
LARGEST_LIMIT: Final = 100_000

OTHER_SECONDS: Final = 5.0
"""How long another manager may take; the answer says which one did not give its part."""


class AuditServicer(security_pb2_grpc.AuditServicer):
    """`others` gives host:port of the control API of every other manager, by node id."""

    def __init__(
        self,
        journal: FileJournal,
        *,
        others: Callable[[], Mapping[str, str]],
        credentials: Callable[[], NodeCredentials],
    ) -> None:
        self._journal = journal
        self._others = others
        self._credentials = credentials

    async def List(
        self, request: security_pb2.ListAuditRequest, context: Context
    ) -> security_pb2.ListAuditResponse:
        check(request)
        if request.limit > LARGEST_LIMIT:
            raise InvalidArgumentError(f"limit: must be at most {LARGEST_LIMIT}, got {request.limit}")
        limit = request.limit or DEFAULT_LIMIT
        query = Query(request.since_ns, request.until_ns, request.name, request.method)
        records = await asyncio.to_thread(self._journal.read, query, limit=limit)
        answer = security_pb2.ListAuditResponse(
            records=[security_pb2.AuditRecord(**dataclasses.asdict(record)) for record in records]
        )
        if not identity(context).caller.is_node:  # a manager that asks wants this one's part only
            await self._add_others(request, answer)
        answer.records.sort(key=lambda record: record.at_ns)
        del answer.records[: max(0, len(answer.records) - limit)]
        return answer

    async def _add_others(
        self, request: security_pb2.ListAuditRequest, answer: security_pb2.ListAuditResponse
    ) -> None:
        others = self._others()
        parts = await asyncio.gather(
            *(self._ask(address, request) for address in others.values()), return_exceptions=True
        )
        for node_id, part in zip(others, parts, strict=True):
            if isinstance(part, security_pb2.ListAuditResponse):
                answer.records.extend(part.records)
            elif isinstance(part, grpc.aio.AioRpcError):
                answer.warnings.append(
                    f"the records of manager {node_id} are missing: {part.code().name}: {part.details()}"
                )
            else:
                raise part

    async def _ask(
        self, address: str, request: security_pb2.ListAuditRequest
    ) -> security_pb2.ListAuditResponse:
        async with manager_channel(address, self._credentials()) as channel:
            return await security_pb2_grpc.AuditStub(channel).List(request, timeout=OTHER_SECONDS)
