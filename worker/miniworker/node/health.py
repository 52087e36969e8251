"""Waits for a gRPC server to say that it is ready."""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minicommon.errors import UnavailableError
from minicommon.rpc.channel import unix_channel

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""There is no server, or it has just stopped: a locked manager stops when it is unlocked, and another one begins."""


async def wait_serving(socket: Path) -> None:
    """Return once the server on the unix socket reports SERVING. Waits for ever: the caller sets the limit.

    Raises UnavailableError when what listens there has no health service.
    """
    async with unix_channel(socket) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while not await _watch(stub):
            pass


async def _watch(stub: health_pb2_grpc.HealthStub) -> bool:
    """Follow one watch; False when its connection broke and another is needed."""
    try:
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return True
    except grpc.aio.AioRpcError as error:
        if error.code() not in _BROKEN:
            raise UnavailableError(f"health check failed: {error.code().name}: {error.details()}") from error
    return False
