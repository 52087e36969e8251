"""Asks other servers for names that are not ours, and passes their answers on as they are.

Each question has a socket of its own, so its port is as hard to guess as its id; the kernel lets only the server that
was asked answer. The client's own servers are asked from inside its namespace, where their addresses mean what the
client means by them; the host's are asked from the host.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from minicommon.errors import MiniError
from minicommon.log import fields

from miniworker.ingress.dns import wire
from miniworker.ingress.dns.responder import Question
from miniworker.ingress.dns.upstreams import usable

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 4.0
"""For one server; moby `libnetwork/resolver.go`, `extIOTimeout`."""

IN_FLIGHT = 1024
"""Questions at a time; Docker's bound (`maxConcurrent`), there for each container. One costs a file descriptor."""

IN_FLIGHT_OF_ONE = 256
"""Of one client, so that a single container cannot keep the others from asking."""

PORT = 53

OpenSocket = Callable[[str, socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]]
"""(task id, family, kind) -> a socket in the task's namespace. Raises OSError or MiniError."""

_FAILURES = frozenset({wire.SERVFAIL, wire.REFUSED, wire.FORMERR, wire.NOTIMP})
"""Codes after which the next server is asked."""


class Forwarder:
    """`host_servers` are asked for clients that have none of their own; `own` are the addresses we listen on."""

    def __init__(
        self,
        *,
        host_servers: Callable[[], tuple[str, ...]],
        own: Callable[[], frozenset[str]],
        open_inside: OpenSocket,
        random: Random,
        port: int = PORT,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._host_servers = host_servers
        self._own = own
        self._open_inside = open_inside
        self._random = random
        self._port = port
        self._timeout = timeout
        self._asking: Counter[str] = Counter()

    async def ask(self, question: Question, *, stream: bool) -> bytes:
        """The first answer of a server, under the client's id; SERVFAIL when there is none."""
        client = question.client.task_id
        if self._asking.total() >= IN_FLIGHT or self._asking[client] >= IN_FLIGHT_OF_ONE:
            return _failed(question)
        self._asking[client] += 1
        try:
            return await self._ask_in_turn(question, stream=stream)
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]

    async def _ask_in_turn(self, question: Question, *, stream: bool) -> bytes:
        inside = bool(question.client.nameservers)
        servers = question.client.nameservers or self._host_servers()
        for server in usable(servers, own=self._own()):
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._ask(server, question, stream=stream, inside=inside)
            except (OSError, MiniError, EOFError) as error:  # TimeoutError is an OSError
                logger.debug("A name server does not answer.", extra=fields(server=server, error=str(error)))
                continue
            if wire.code_of(answer) not in _FAILURES:
                return wire.with_id(answer, question.query.id)
        return _failed(question)

    async def _ask(self, server: str, question: Question, *, stream: bool, inside: bool) -> bytes:
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        family, *_, address = socket.getaddrinfo(
            server, self._port, type=kind, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
        if inside:
            connection = await self._open_inside(question.client.task_id, family, kind)
        else:
            connection = socket.socket(family, kind)
        with connection:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, address)
            exchange = _exchange_stream if stream else _exchange
            ident = self._random.getrandbits(16)
            return await exchange(connection, wire.with_id(question.packet, ident), ident, question)


async def _exchange(connection: socket.socket, packet: bytes, ident: int, question: Question) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, packet)
    while True:
        answer = await loop.sock_recv(connection, wire.STREAM_BYTES)
        if wire.answers(answer, ident, question.query.question):
            return answer


async def _exchange_stream(connection: socket.socket, packet: bytes, ident: int, question: Question) -> bytes:
    await asyncio.get_running_loop().sock_sendall(connection, struct.pack(">H", len(packet)) + packet)
    (length,) = struct.unpack(">H", await _read_exactly(connection, 2))
    answer = await _read_exactly(connection, length)
    if not wire.answers(answer, ident, question.query.question):
        raise EOFError("answered something else than it was asked")
    return answer


async def _read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await asyncio.get_running_loop().sock_recv(connection, count - len(data))
        if not chunk:
            raise EOFError("closed the connection before it had answered")
        data += chunk
    return data


def _failed(question: Question) -> bytes:
    return wire.reply(question.query, wire.SERVFAIL, limit=wire.PLAIN_BYTES)
