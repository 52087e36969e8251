"""A name server of the outside for tests: answers as it is told, on udp and tcp of one address."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

import dns.message
import dns.rcode
import dns.rrset

Behavior = Callable[[dns.message.Message], "list[dns.message.Message | bytes]"]
"""What is sent for a question; nothing: it goes unanswered."""


def answering(address: str) -> Behavior:
    """Every name has this address."""

    def behavior(query: dns.message.Message) -> list[dns.message.Message | bytes]:
        answer = dns.message.make_response(query)
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 300, "IN", "A", address))
        return [answer]

    return behavior


def refusing(code: dns.rcode.Rcode) -> Behavior:
    def behavior(query: dns.message.Message) -> list[dns.message.Message | bytes]:
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return [answer]

    return behavior


def silent(query: dns.message.Message) -> list[dns.message.Message | bytes]:
    """Nobody answers."""
    return []


class Upstream(asyncio.DatagramProtocol):
    """Serves while it is entered."""

    def __init__(self, address: str, port: int, behavior: Behavior) -> None:
        self.address = address
        self.behavior = behavior
        self.asked: list[dns.message.Message] = []
        self.sources: list[tuple[str, int]] = []
        self.arrived = asyncio.Event()
        self._port = port
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Upstream:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(self.address, self._port))
        self._server = await asyncio.start_server(self._serve, self.address, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()
        self._server.close()
        await self._server.wait_closed()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        assert self._transport is not None
        self.sources.append(addr[:2])
        for answer in self._answers(data):
            self._transport.sendto(answer, addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        for answer in self._answers(await reader.readexactly(length)):
            writer.write(struct.pack(">H", len(answer)) + answer)
        writer.close()

    def _answers(self, data: bytes) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        self.arrived.set()
        return [item if isinstance(item, bytes) else item.to_wire() for item in self.behavior(query)]
