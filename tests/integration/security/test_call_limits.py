"""Each client of a manager has its rate on each port; who is refused takes nothing from the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
from minicommon.identity.names import Caller
from minicommon.rpc.limits import CallLimits
from miniproto.v1 import control_pb2, join_pb2
from support.manager import manager_in_process

BURST = 5
LIMITS = CallLimits(per_second=1, burst=BURST)


async def _answered(call: Callable[[], Awaitable[object]]) -> int:
    """How many calls in a row are answered before one is refused."""
    refusals: list[grpc.aio.AioRpcError] = []
    answered = -1
    while not refusals and answered < 10 * BURST:
        answered += 1
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            refusals.append(error)
    assert [error.code() for error in refusals] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert "calls too often: at most 1 calls a second are answered" in (refusals[0].details() or "")
    return answered


async def test_each_client_has_a_rate_on_each_port_and_root_has_none() -> None:
    async with manager_in_process(limits=LIMITS) as manager:
        viewer, other = (
            await manager.member(Caller.VIEWER, "one"),
            await manager.member(Caller.VIEWER, "other"),
        )
        for client in (viewer, other):
            assert await _answered(lambda: client.services.List(control_pb2.ListRequest())) >= BURST  # noqa: B023
        joiner = await manager.joiner()
        assert (
            await _answered(lambda: joiner.join.RootCertificate(join_pb2.RootCertificateRequest())) >= BURST
        )
        local = await manager.local()
        for _ in range(10 * BURST):
            await local.services.List(control_pb2.ListRequest())
