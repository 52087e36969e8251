"""A manager that is locked: it serves the unix socket, refuses everything with the reason, and waits for the key."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from grpc import aio
from minicommon.identity.keyring import Keyring, KeyringFile, parse_unlock, unlock_holder
from minicommon.paths import NodePaths
from minicommon.rpc.audit import Journal
from minicommon.rpc.gate import LocalGate
from minicommon.rpc.guard import Guard
from minicommon.rpc.server import add_health, listen_unix, new_server
from miniproto.v1 import security_pb2, security_pb2_grpc

from minimanager.rpc.encryption_keys import LOCKED
from minimanager.rpc.requests import check

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]

STOP_SECONDS = 1.0
"""For the answer to who unlocked it."""


async def unlocked(paths: NodePaths, journal: Journal, stop: asyncio.Event) -> Keyring | None:
    """Wait for the unlock key; None: the manager was told to stop instead."""
    opened: asyncio.Future[Keyring] = asyncio.get_running_loop().create_future()
    server = new_server(Guard(LocalGate(), journal=journal))
    add_health(server)
    security_pb2_grpc.add_LockServicer_to_server(_Lock(KeyringFile(paths.cluster_key), opened), server)
    server.add_generic_rpc_handlers((_Refusal(),))
    listen_unix(server, paths.manager_socket)
    await server.start()
    await asyncio.to_thread(paths.locked.touch)
    logger.warning("The manager is locked: it waits for the unlock key.")
    stopping = asyncio.ensure_future(stop.wait())
    try:
        ends: set[asyncio.Future[Any]] = {opened, stopping}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await server.stop(STOP_SECONDS)
        await asyncio.to_thread(paths.locked.unlink, missing_ok=True)
    if not opened.done():
        return None
    logger.info("The manager was unlocked.")
    return opened.result()


class _Lock(security_pb2_grpc.LockServicer):
    def __init__(self, file: KeyringFile, opened: asyncio.Future[Keyring]) -> None:
        self._file = file
        self._opened = opened

    async def Unlock(  # noqa: N802  gRPC's name
        self, request: security_pb2.UnlockRequest, context: Context
    ) -> security_pb2.UnlockResponse:
        check(request)
        keyring = await asyncio.to_thread(self._file.open, unlock_holder(parse_unlock(request.key)))
        if not self._opened.done():
            self._opened.set_result(keyring)
        return security_pb2.UnlockResponse()


class _Refusal(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Takes every call that is of no service here."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def refuse(requests: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, LOCKED)

        return grpc.stream_stream_rpc_method_handler(refuse)
