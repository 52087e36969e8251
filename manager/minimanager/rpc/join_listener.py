"""The listener of the join port, behind a seam: gRPC's own TLS cannot ask for a certificate without demanding one, so
one that lets both kinds of callers in has to end TLS itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from grpc import aio
from minicommon.rpc.audit import Journal
from minicommon.rpc.credentials import NodeCredentials, server_credentials
from minicommon.rpc.limits import CallLimits
from minicommon.rpc.server import listen_tls, new_server
from miniproto.v1 import join_pb2_grpc

from minimanager.rpc.interceptors import JOIN_LIMITS, join_guard

STOP_SECONDS = 5.0
"""For joins that are under way when the manager stops."""


class JoinListener(Protocol):
    """Serves the `Join` service."""

    async def start(self, address: str) -> int:
        """Listen at host:port, and say on which port. Raises UnavailableError."""

    async def stop(self) -> None:
        """Let the calls under way end, then close."""


class GrpcJoinListener:
    """The server shows its certificate, the client shows none."""

    def __init__(
        self,
        servicer: join_pb2_grpc.JoinServicer,
        load: Callable[[], NodeCredentials],
        *,
        journal: Journal | None = None,
        limits: CallLimits | None = JOIN_LIMITS,
    ) -> None:
        self._servicer = servicer
        self._limits = limits
        self._journal = journal
        self._load = load
        self._server: aio.Server | None = None

    async def start(self, address: str) -> int:
        server = new_server(join_guard(self._journal, self._limits))
        join_pb2_grpc.add_JoinServicer_to_server(self._servicer, server)
        port = listen_tls(server, address, server_credentials(self._load, client_certificate=False))
        await server.start()
        self._server = server
        return port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
            self._server = None
