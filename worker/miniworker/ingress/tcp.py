"""The userspace path for tcp: accepts on the published port and joins the connection with one to a task."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

from minicommon.log import fields

from miniworker.ingress.counters import Counters
from miniworker.ingress.rotation import Rotation
from miniworker.ingress.sockets import BACKLOG
from miniworker.ingress.table import Port, PortKey

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
"""A task on the overlay answers in milliseconds; a node that has just died does not answer at all."""

CHUNK_BYTES = 64 * 1024
"""Read at once; also asyncio's own high-water mark for writing."""


class TcpPort:
    """One published tcp port. Connections go on after `close`, until one side ends them."""

    def __init__(self, key: PortKey, counters: Counters) -> None:
        self._key = key
        self._counters = counters
        self._rotation = Rotation()
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, sockets: list[socket.socket]) -> None:
        self._servers = [
            await asyncio.start_server(self._accepted, sock=item, backlog=BACKLOG) for item in sockets
        ]

    def update(self, port: Port) -> None:
        self._rotation.update(port.backends, port.target_port)

    @property
    def busy(self) -> bool:
        """Whether connections are open."""
        return bool(self._connections)

    def close(self) -> None:
        """Accept nothing more."""
        for server in self._servers:
            server.close()

    async def abort(self) -> None:
        """End the connections too."""
        self.close()
        for task in tuple(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name=f"connection to {self._key}")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._counters.opened()
        try:
            backend = await self._connect()
            if backend is None:
                _reset(writer)
                return
            await _join((reader, writer), backend)
        finally:
            writer.close()
            self._counters.closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """To the first backend that answers, beginning with the one whose turn it is."""
        for host, port in self._rotation.order():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(host, port)
            except OSError as error:  # TimeoutError is one
                logger.debug(
                    "A task does not accept connections.",
                    extra=fields(port=str(self._key), backend=f"{host}:{port}", error=str(error)),
                )
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset: the client learns that nobody is there, not that all has been said."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _join(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    backend: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Carry bytes both ways until both sides have ended, or one was reset."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(client[0], backend[1]))
            group.create_task(_pump(backend[0], client[1]))
    except* OSError:
        _reset(client[1])
        _reset(backend[1])
    finally:
        backend[1].close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, no faster than it is taken, and pass the end on."""
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    sink.write_eof()
