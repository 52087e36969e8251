"""`EtcdStore`: the `Store` protocol on etcd's gRPC API.

Reads are linearizable and are tried on other members until the time is up. A transaction is sent once: when its
answer is lost nobody knows whether it took effect, and sending it again could report a success as a conflict.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc
from minicommon.clock import MILLISECOND, SECOND, Clock, SystemClock
from minicommon.errors import UnavailableError
from minicommon.settings import EtcdSettings

from minimanager.store import limits as sizes
from minimanager.store.api import (
    CompactedError,
    Compare,
    EventBatch,
    KeyValue,
    LeaseGoneError,
    Limits,
    Operation,
    Range,
    StoreStatus,
    Txn,
    TxnResult,
)
from minimanager.store.etcd import errors, wire
from minimanager.store.etcd.endpoints import Endpoints, Member
from minimanager.store.etcd.watch import oldest_revision, watch

REQUEST_TIMEOUT: Final = 5.0
"""Seconds until a request is given up: etcd's own limit for one is 5 s plus two elections (`server.go`, ReqTimeout)."""

MAINTENANCE_TIMEOUT: Final = 120.0
"""Seconds that a member has to be defragmented: enough for 8 GiB, the most that it may hold."""

PAGE_KEYS: Final = 5_000
"""Keys per request when listing: a few megabytes, so that a long list does not hold up etcd's other readers."""

_BACKOFF_NS: Final = 20 * MILLISECOND
"""Before a read is tried again, doubled each time: for a member that is connected and refuses, having no leader."""


class EtcdStore:
    """A connection to an etcd cluster. Made without waiting; the first call connects."""

    def __init__(
        self, settings: EtcdSettings, *, clock: Clock | None = None, request_timeout: float = REQUEST_TIMEOUT
    ) -> None:
        self._endpoints = Endpoints(settings)
        self._limits = Limits(settings.max_txn_ops, settings.max_request_bytes)
        self._clock = clock or SystemClock()
        self._timeout = request_timeout

    @property
    def limits(self) -> Limits:
        return self._limits

    async def get(self, key: str) -> KeyValue | None:
        request = rpc_pb2.RangeRequest(key=key.encode())
        response = await self._read("read", lambda member, left: _kv(member).Range(request, timeout=left))
        return wire.key_value(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: str, *, revision: int = 0) -> Range:
        items: list[KeyValue] = []
        start, end = prefix.encode(), wire.prefix_end(prefix)
        while True:
            request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            response = await self._page(request)
            revision = revision or response.header.revision
            items.extend(wire.key_value(raw) for raw in response.kvs)
            if not response.more:
                return Range(tuple(items), revision)
            start = response.kvs[-1].key + b"\0"

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        return watch(self._endpoints, prefix, after, self._clock)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        return (await self.txn_many([Txn(tuple(compares), tuple(operations))]))[0]

    async def txn_many(self, txns: Sequence[Txn]) -> Sequence[TxnResult]:
        if not txns:
            return []
        sizes.check(txns, self._limits)
        sizes.check_independent(txns)
        request = wire.txn_request(txns)
        response = await self._once(
            "transaction", lambda member, left: _kv(member).Txn(request, timeout=left)
        )
        return wire.txn_results(response, len(txns))

    async def grant_lease(self, ttl_seconds: int) -> int:
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_seconds)
        response = await self._once(
            "lease", lambda member, left: _lease(member).LeaseGrant(request, timeout=left)
        )
        lease_id: int = response.ID
        return lease_id

    async def renew_lease(self, lease_id: int) -> bool:
        response = await self._read("lease renewal", lambda member, left: _keep_alive(member, lease_id, left))
        return bool(response.TTL > 0)

    async def revoke_lease(self, lease_id: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
        try:
            await self._read(
                "lease end", lambda member, left: _lease(member).LeaseRevoke(request, timeout=left)
            )
        except LeaseGoneError:
            return

    async def compact(self, revision: int) -> None:
        request = rpc_pb2.CompactionRequest(revision=revision)
        try:
            await self._read("compaction", lambda member, left: _kv(member).Compact(request, timeout=left))
        except CompactedError:
            return

    async def status(self) -> StoreStatus:
        request = rpc_pb2.StatusRequest()
        response = await self._read(
            "status",
            lambda member, left: rpc_pb2_grpc.MaintenanceStub(member.channel).Status(request, timeout=left),
        )
        full = any("NOSPACE" in alarm for alarm in response.errors)
        return StoreStatus(
            response.version, self._endpoints.urls, response.header.revision, response.dbSize, full
        )

    async def reclaim(self, revision: int) -> None:
        """Forget the history before `revision`, give its space back on every member, and disarm the alarm NOSPACE.

        A member does not answer while it is defragmented, about a second per 100 MB. Raises UnavailableError.
        """
        await self.compact(revision)
        for member in self._endpoints.members:
            await self._maintain(member, "defragmentation", "Defragment", rpc_pb2.DefragmentRequest())
        member = await self._endpoints.connected_within(self._timeout)
        raised = await self._maintain(
            member, "alarms", "Alarm", rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        )
        for alarm in raised.alarms:
            if alarm.alarm == rpc_pb2.NOSPACE:
                off = rpc_pb2.AlarmRequest(
                    action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
                )
                await self._maintain(member, "alarms", "Alarm", off)

    async def close(self) -> None:
        await self._endpoints.close()

    # --- calls ---

    async def _maintain(self, member: Member, what: str, method: str, request: Any) -> Any:
        stub = rpc_pb2_grpc.MaintenanceStub(member.channel)
        try:
            return await getattr(stub, method)(request, timeout=MAINTENANCE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise errors.translate(error, f"etcd {what} on {member.url}") from error

    async def _page(self, request: Any) -> Any:
        return await self._read("list", lambda member, left: _kv(member).Range(request, timeout=left))

    async def _once(self, what: str, call: Callable[[Member, float], Awaitable[Any]]) -> Any:
        """Send once. Waiting for a connection counts against the time; nothing has been sent by then."""
        ends_at = asyncio.get_running_loop().time() + self._timeout
        member = await self._endpoints.connected_within(self._timeout)
        return await self._send(what, member, call, ends_at)

    async def _read(self, what: str, call: Callable[[Member, float], Awaitable[Any]]) -> Any:
        """Send until a member answers or the time is up: for what may be done twice."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._timeout
        backoff_ns = _BACKOFF_NS
        while True:
            member = await self._endpoints.connected_within(max(0.0, ends_at - loop.time()))
            try:
                return await self._send(what, member, call, self._attempt_ends(loop.time(), ends_at))
            except UnavailableError:
                if loop.time() + backoff_ns / SECOND >= ends_at:
                    raise
            await self._clock.sleep_until(self._clock.now_ns() + backoff_ns)
            backoff_ns *= 2

    def _attempt_ends(self, now: float, ends_at: float) -> float:
        """One member that hangs must leave time for another."""
        return ends_at if len(self._endpoints.urls) == 1 else now + (ends_at - now) / 2

    async def _send(
        self, what: str, member: Member, call: Callable[[Member, float], Awaitable[Any]], ends_at: float
    ) -> Any:
        left = max(0.0, ends_at - asyncio.get_running_loop().time())
        try:
            return await call(member, left)
        except grpc.aio.AioRpcError as error:
            if error.code() in errors.UNREACHABLE:
                self._endpoints.failed(member)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise UnavailableError(
                    f"etcd {what}: {member.url} did not answer within {left:.2g} s"
                ) from error
            if errors.is_compacted(error):
                raise CompactedError(await oldest_revision(member, left)) from error
            raise errors.translate(error, f"etcd {what}") from error


def _kv(member: Member) -> Any:
    return rpc_pb2_grpc.KVStub(member.channel)


def _lease(member: Member) -> Any:
    return rpc_pb2_grpc.LeaseStub(member.channel)


async def _keep_alive(member: Member, lease_id: int, timeout: float) -> Any:
    """A keep-alive stream for one question: the holder of the lease decides when, not a background task."""
    call = _lease(member).LeaseKeepAlive(timeout=timeout)
    try:
        await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
        response = await call.read()
        if response is grpc.aio.EOF:
            raise UnavailableError(f"etcd lease renewal: {member.url} ended the stream")
        return response
    finally:
        call.cancel()
