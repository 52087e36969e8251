"""The sockets of one network: udp and tcp on its gateway's address.

They are bound whether or not the bridge has the address yet (IP_FREEBIND), and belong to the address, not to the
bridge: they serve from the moment it appears, and again when the bridge was made anew.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address

from minicommon.errors import MiniError

from miniworker.ingress.dns.responder import Question
from miniworker.network.ports import port_holder

logger = logging.getLogger(__name__)

BATCH = 64
"""Datagrams answered before the loop sees to its other work."""

QUERY_BYTES = 4096
"""A longer datagram is no question; it arrives cut short and is refused as malformed."""

RECEIVE_BUFFER_BYTES = 1 << 20
"""For bursts: some thousand questions."""

IDLE_SECONDS = 10.0
"""After which a tcp client that asks nothing is left; RFC 7766 6.2.3 wants a few seconds."""

MOST_CONNECTIONS = 512
MOST_CONNECTIONS_OF_ONE = 64
"""Of one client; those above are closed at once."""

_IP_FREEBIND = 15  # <linux/in.h>; Python does not name it

Respond = Callable[[bytes, str, bool], "bytes | Question | None"]
"""(packet, source address, over tcp) -> the answer, what to forward, or None."""

Ask = Callable[[Question, bool], Awaitable[bytes]]


class AddressTakenError(MiniError):
    """The network's address cannot be listened on; the text says who does."""


class NetworkListener:
    """Serves from `open` to `close`."""

    def __init__(self, address: IPv4Address, *, port: int, respond: Respond, ask: Ask) -> None:
        self.address = address
        self._port = port
        self._respond = respond
        self._ask = ask
        self._datagrams: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._connections: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises AddressTakenError."""
        datagrams = stream = None
        try:
            datagrams = _bind(self.address, self._port, socket.SOCK_DGRAM)
            stream = _bind(self.address, self._port, socket.SOCK_STREAM)
        except OSError as error:
            if datagrams:
                datagrams.close()
            protocol = "tcp" if datagrams else "udp"
            # In a thread: naming the holder reads all of /proc.
            raise AddressTakenError(
                await asyncio.to_thread(_reason, self.address, self._port, protocol, error)
            ) from error
        self._datagrams = datagrams
        asyncio.get_running_loop().add_reader(datagrams, self._readable, datagrams)
        self._server = await asyncio.start_server(self._accepted, sock=stream)

    async def close(self) -> None:
        if self._datagrams is not None:
            asyncio.get_running_loop().remove_reader(self._datagrams)
            self._datagrams.close()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- udp ---

    def _readable(self, datagrams: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                packet, source = datagrams.recvfrom(QUERY_BYTES)
            except OSError:  # nothing more, or an error of an earlier answer
                return
            outcome = self._respond(packet, source[0], False)
            if isinstance(outcome, Question):
                self._start(self._forward(datagrams, outcome, source))
            elif outcome is not None:
                _send(datagrams, outcome, source)

    async def _forward(self, datagrams: socket.socket, question: Question, source: tuple[str, int]) -> None:
        _send(datagrams, await self._ask(question, False), source)

    # --- tcp ---

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")
        if (
            source is None
            or self._connections.total() >= MOST_CONNECTIONS
            or self._connections[source[0]] >= MOST_CONNECTIONS_OF_ONE
        ):
            writer.transport.abort()
            return
        self._start(self._serve(reader, writer, source[0]))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str) -> None:
        self._connections[source] += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        (length,) = struct.unpack(">H", await reader.readexactly(2))
                        packet = await reader.readexactly(length)
                    if (answer := await self._answer(packet, source)) is None:
                        return
                    async with asyncio.timeout(IDLE_SECONDS):
                        writer.write(struct.pack(">H", len(answer)) + answer)
                        await writer.drain()
        finally:
            writer.close()
            self._connections[source] -= 1
            if not self._connections[source]:
                del self._connections[source]

    async def _answer(self, packet: bytes, source: str) -> bytes | None:
        outcome = self._respond(packet, source, True)
        return await self._ask(outcome, True) if isinstance(outcome, Question) else outcome

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("Answering a question failed.", exc_info=error)


def _send(datagrams: socket.socket, answer: bytes, source: tuple[str, int]) -> None:
    with suppress(OSError):  # the client is gone or does not read: it asks again if it wants to know
        datagrams.sendto(answer, source)


def _bind(address: IPv4Address, port: int, kind: socket.SocketKind) -> socket.socket:
    item = socket.socket(socket.AF_INET, kind)
    try:
        item.setblocking(False)
        item.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:  # for udp it would let two processes share the address
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            item.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        item.bind((str(address), port))
    except OSError:
        item.close()
        raise
    return item


def _reason(address: IPv4Address, port: int, protocol: str, error: OSError) -> str:
    return (
        f"names of its network cannot be served at {address}:{port}/{protocol} ({error.strerror}): "
        f"the port is held by {port_holder(protocol, port)}"
    )
