"""One watch stream after the other, for ever, from wherever the last one got to.

etcd sends all events of a revision together, but may cut a large answer into fragments; the batch is complete with
the last one. Only an answer without events may be taken for progress: the header of one with events can be ahead of
them while a watch catches up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc
from minicommon.clock import MILLISECOND, Clock

from minimanager.store.api import CompactedError, EventBatch
from minimanager.store.etcd import wire
from minimanager.store.etcd.endpoints import Endpoints, Member

logger = logging.getLogger(__name__)

_NEEDS_LEADER: Final = (("hasleader", "true"),)
"""A member cut off from the majority must end the watch, not keep silent (etcd `clientv3/ctx.go`)."""

_BACKOFF_NS: Final = 50 * MILLISECOND
_BACKOFF_MAX_NS: Final = 2_000 * MILLISECOND
"""Between two streams that brought nothing: connections are awaited, so this only matters when a member accepts
the connection and refuses the watch."""


class _EndedError(Exception):
    """The member ended the watch; another one may carry it on."""


async def watch(endpoints: Endpoints, prefix: str, after: int, clock: Clock) -> AsyncIterator[EventBatch]:
    """Every batch of events of `prefix` after revision `after`. Raises CompactedError."""
    seen = after
    backoff_ns = 0
    while True:
        await clock.sleep_until(clock.now_ns() + backoff_ns)
        member = await endpoints.connected()
        try:
            async for batch in _stream(member, prefix, seen):
                backoff_ns = 0
                seen = max(seen, batch.revision)
                yield batch
        except (grpc.aio.AioRpcError, _EndedError) as error:
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            logger.warning(
                "The watch was interrupted; resuming.",
                extra={"endpoint": member.url, "revision": seen, "reason": details},
            )
            endpoints.failed(member)
            backoff_ns = min(max(_BACKOFF_NS, 2 * backoff_ns), _BACKOFF_MAX_NS)


async def oldest_revision(member: Member, timeout: float) -> int:
    """The revision of the last compaction, which only the refusal of a watch tells; 0 when that fails, too."""
    call = rpc_pb2_grpc.WatchStub(member.channel).Watch(timeout=timeout)
    try:
        await call.write(_request("/", 0))
        async for response in call:
            if response.compact_revision or not response.created:
                return int(response.compact_revision)
    except grpc.aio.AioRpcError:
        return 0
    finally:
        call.cancel()
    return 0


async def _stream(member: Member, prefix: str, after: int) -> AsyncIterator[EventBatch]:
    call = rpc_pb2_grpc.WatchStub(member.channel).Watch(metadata=_NEEDS_LEADER)
    try:
        await call.write(_request(prefix, after))
        events: list[Any] = []
        async for response in call:
            if response.compact_revision:
                raise CompactedError(response.compact_revision)
            if response.canceled:
                raise _EndedError(response.cancel_reason or "canceled by etcd")
            events.extend(response.events)
            if response.fragment or response.created:
                continue
            if events:
                yield EventBatch(events[-1].kv.mod_revision, tuple(wire.event(raw) for raw in events))
            elif response.header.revision > after:
                yield EventBatch(response.header.revision, ())
            events = []
        raise _EndedError("the stream ended")
    finally:
        call.cancel()


def _request(prefix: str, after: int) -> Any:
    create = rpc_pb2.WatchCreateRequest(
        key=prefix.encode(),
        range_end=wire.prefix_end(prefix),
        start_revision=after + 1,
        progress_notify=True,
        fragment=True,
    )
    return rpc_pb2.WatchRequest(create_request=create)
