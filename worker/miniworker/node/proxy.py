"""Passes every call that is not the daemon's own on to the node's manager, byte for byte.

The daemon need not know the methods: any call is a stream of messages each way. Metadata, deadline, cancelling and the
status with its details go through unchanged. A node without a manager answers with the reason, in Docker's words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

NOT_A_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
NOT_A_MEMBER = (
    'This node is not a swarm manager. Use "minictl swarm init" or "minictl swarm join" to connect this node to swarm '
    "and try again."
)

NO_ANSWER = (
    "This node's manager does not answer: it is starting, or it has ended and is being started again. "
    "See `minictl info`, and try again."
)

Upstream = Callable[[], grpc.aio.Channel | str]
"""The manager's channel, or why there is none."""

_STATUS_DETAILS = "grpc-status-details-bin"

_OF_ONE_HOP = frozenset({"user-agent", "content-type", "te"})

Metadata = tuple[tuple[str, str | bytes], ...]


class ManagerProxy(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Add it to a server after the server's own services: it takes every call that reaches it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method: str = handler_call_details.method
        incoming = _passable(handler_call_details.invocation_metadata)

        async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            target = self._upstream()
            if isinstance(target, str):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, target)
                return
            open_call: Any = target.stream_stream(method)
            call = open_call(requests, metadata=incoming, timeout=context.time_remaining())
            try:
                async for response in _relay(call, context, target):
                    yield response
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)


async def _relay(call: Any, context: Any, channel: grpc.aio.Channel) -> AsyncIterator[bytes]:
    try:
        await context.send_initial_metadata(_passable(await call.initial_metadata()))
        async for response in call:
            yield response
    except grpc.aio.AioRpcError:
        pass  # the status below tells it
    code, details = await asyncio.gather(call.code(), call.details())
    if code is grpc.StatusCode.UNAVAILABLE and channel.get_state() is not grpc.ChannelConnectivity.READY:
        details = NO_ANSWER  # grpc's own words tell of sockets and file names
    context.set_trailing_metadata(_passable(await call.trailing_metadata()))
    if code is not grpc.StatusCode.OK:
        await context.abort(code, details or "", _passable(await call.trailing_metadata()))


def _passable(metadata: Any) -> Metadata:
    """Without what belongs to one connection only."""
    return tuple((key, value) for key, value in metadata or () if _passes(key))


def _passes(key: str) -> bool:
    return key == _STATUS_DETAILS or not (key in _OF_ONE_HOP or key.startswith((":", "grpc-")))
