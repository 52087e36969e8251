"""Servers: built with a guard, then given their listeners and services."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from minicommon.errors import UnavailableError
from minicommon.rpc import options
from minicommon.rpc.gate import LocalGate
from minicommon.rpc.guard import Guard

SOCKET_MODE: Final = 0o600

LOCAL_UNARY_SECONDS: Final = 600.0
"""`swarm init` and `swarm join` wait for processes to start and for a first session; their own limits are shorter."""


def new_server(guard: Guard) -> grpc.aio.Server:
    """A server without listeners or services."""
    return grpc.aio.server(interceptors=[guard], options=options.SERVER)


def local_server() -> grpc.aio.Server:
    """A server for a unix socket, whose callers are root on this machine."""
    return new_server(Guard(LocalGate(), unary_seconds=LOCAL_UNARY_SECONDS))


def listen_unix(server: grpc.aio.Server, socket: Path) -> None:
    """Listen on a unix socket that only root can open; one left by a dead process is replaced.

    Raises UnavailableError.
    """
    socket.unlink(missing_ok=True)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        _bind(server, f"unix:{socket}", None)
    finally:
        os.umask(before)
    socket.chmod(SOCKET_MODE)


def listen_tls(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen at host:port, and say on which port (0 lets the kernel choose). Raises UnavailableError."""
    return _bind(server, address, credentials)


def add_health(server: grpc.aio.Server) -> health.aio.HealthServicer:
    """The health service: not serving until it is told otherwise."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Lets `grpcurl` and the like list these services, by full name."""
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME, health.SERVICE_NAME], server)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {address}: is it in use, or not this machine's?") from error
