"""The userspace path, on the loopback addresses of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast

import pytest
from minicommon.clock import SECOND, Clock, SystemClock, VirtualClock
from miniworker.ingress.counters import Counters
from miniworker.ingress.dialer import Dialer
from miniworker.ingress.limits import Limits
from miniworker.ingress.poller import Poller
from miniworker.ingress.sockets import PortTakenError, bind_all
from miniworker.ingress.table import Port, PortKey
from miniworker.ingress.tcp import TcpPort
from miniworker.ingress.udp import IDLE_NS, UdpPort
from support.ports import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

FIRST, SECOND_ADDRESS = IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2")


@asynccontextmanager
async def opened(
    target: int,
    backends: tuple[IPv4Address, ...] = (FIRST,),
    *,
    limits: Limits | None = None,
    clock: Clock | None = None,
    sticky: bool = False,
    proxy_protocol: bool = False,
) -> AsyncIterator[tuple[TcpPort, int]]:
    """A published port that leads to `target` on `backends`, and its number."""
    poller, key = Poller(), PortKey("tcp", free_port(socket.SOCK_STREAM))
    poller.start()
    dialer = Dialer(poller, clock=clock or SystemClock())
    port = TcpPort(
        key, poller=poller, dialer=dialer, limits=limits or Limits(maximum=1000), counters=Counters()
    )
    port.update(Port(key, target, "web", backends, sticky=sticky, proxy_protocol=proxy_protocol))
    await port.open(bind_all(key))
    try:
        yield port, key.port
    finally:
        await port.abort()
        await dialer.close()
        poller.close()


@asynccontextmanager
async def published(handler: Handler, *, backends: tuple[IPv4Address, ...] = (FIRST,)) -> AsyncIterator[int]:
    """The number of a published port that leads to `handler`, which listens only on the first address."""
    server = await asyncio.start_server(handler, str(FIRST), 0)
    try:
        async with opened(server.sockets[0].getsockname()[1], backends) as (_, number):
            yield number
    finally:
        server.close()


async def read_all_then_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()
    writer.write(b"%d" % len(data))
    await writer.drain()
    writer.close()


async def exchange(port: int, data: bytes, *, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_answer_comes_after_the_client_has_said_all() -> None:
    async with published(read_all_then_answer) as port:
        assert await exchange(port, b"x" * 3_000_000) == b"3000000"


async def test_ipv6_clients_are_served() -> None:
    async with published(read_all_then_answer) as port:
        assert await exchange(port, b"abc", host="::1") == b"3"


async def test_a_task_that_refuses_is_passed_over() -> None:
    async with published(read_all_then_answer, backends=(FIRST, SECOND_ADDRESS)) as port:
        assert [await exchange(port, b"abc") for _ in range(4)] == [b"3"] * 4


async def test_without_a_task_that_answers_the_connection_is_reset() -> None:
    async with published(read_all_then_answer, backends=(SECOND_ADDRESS,)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_slow_reader_holds_the_sender_up() -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
        except ConnectionError:
            writer.close()

    async with published(flood) as port:
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            before = -1
            while before != sent or sent == 0:  # until the buffers on the way are full
                before = sent
                await asyncio.get_running_loop().run_in_executor(None, _let_the_kernel_work)
            assert sent < 64 << 20


def _let_the_kernel_work() -> None:
    """A few round trips over loopback: long enough for bytes that can move to have moved."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(200):
            with socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
                one.sendall(b"x")
                other.recv(1)


async def test_a_connection_goes_on_when_the_port_is_closed() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, str(FIRST), 0)
    async with opened(server.sockets[0].getsockname()[1]) as (port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        port.close()
        writer.write(b"b")
        assert await reader.read(1) == b"b"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", number)
        writer.close()
    server.close()


def test_a_taken_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(
            PortTakenError, match=rf"port {number}/tcp is in use on this node by .+ \(pid \d+\)"
        ):
            bind_all(PortKey("tcp", number))


class Echo(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        self.peers.append(addr)
        self.transport.sendto(data, addr)


async def test_a_udp_client_keeps_its_task_until_it_has_been_silent() -> None:
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    clock, counters = VirtualClock(), Counters()
    key = PortKey("udp", free_port(socket.SOCK_DGRAM))
    port = UdpPort(key, counters, clock=clock)
    port.update(Port(key, transport.get_extra_info("sockname")[1], "dns", (FIRST,)))
    await port.open(bind_all(key))
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", key.port))

        async def ask() -> bytes:
            await loop.sock_sendall(client, b"?")
            return await loop.sock_recv(client, 100)

        assert await ask() == b"?"
        clock.advance(IDLE_NS - SECOND)
        assert await ask() == b"?"
        assert len(set(echo.peers)) == 1
        assert (counters.open, counters.total) == (1, 1)
        clock.advance(IDLE_NS)
        for _ in range(10):  # turns of the loop, for the task that the clock woke
            await asyncio.sleep(0)
        assert counters.open == 0
        assert await ask() == b"?"
        assert counters.total == 2
    await port.abort()
    transport.close()
    assert counters.open == 0
