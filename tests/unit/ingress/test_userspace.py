"""The userspace path, on the loopback addresses of this machine."""

from __future__ import annotations

import asyncio
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import cast

import pytest
from minicommon.clock import SECOND, Clock, SystemClock, VirtualClock
from miniworker.ingress.counters import Counters
from miniworker.ingress.dialer import CONNECT_NS, Dialer
from miniworker.ingress.limits import Limits, connection_limits
from miniworker.ingress.poller import Poller
from miniworker.ingress.proxy_header import proxy_header
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


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def listening(handler: Handler, address: IPv4Address = FIRST, port: int = 0) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, str(address), port, backlog=1000)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_port_with_as_many_connections_as_it_may_accepts_the_next_when_one_ends() -> None:
    async with listening(echo) as target, opened(target, limits=Limits(maximum=2)) as (_, number):
        first, *others = [await asyncio.open_connection("127.0.0.1", number) for _ in range(4)]
        first[1].write(b"1")
        assert await first[0].read(1) == b"1"
        for index, (_, writer) in enumerate(others):
            writer.write(b"%d" % index)
        # One place is for other ports: 0.8 of two is one.
        answer = asyncio.ensure_future(others[0][0].read(1))
        second = [await exchange_byte(first) for _ in range(20)]
        assert second == [b"x"] * 20
        assert not answer.done()
        first[1].close()
        assert await answer == b"0"
        for index, (reader, writer) in enumerate(others):
            if index:
                assert await reader.read(1) == b"%d" % index
            writer.close()


async def exchange_byte(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    connection[1].write(b"x")
    return await connection[0].read(1)


class WatchedClock(VirtualClock):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def sleep_until(self, when_ns: int) -> None:
        self.asked.set()
        await super().sleep_until(when_ns)


async def test_a_task_that_does_not_answer_is_given_up_for_the_next() -> None:
    """Its queue is full, so that the kernel does not answer, as a node without power would not."""
    with socket.socket() as silent:
        silent.bind((str(SECOND_ADDRESS), 0))
        silent.listen(0)
        target = silent.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((str(SECOND_ADDRESS), target))
        clock = WatchedClock()
        async with (
            listening(echo, FIRST, target),
            opened(target, (SECOND_ADDRESS, FIRST), clock=clock) as (_, number),
        ):
            client = await asyncio.open_connection("127.0.0.1", number)
            client[1].write(b"x")
            answer = asyncio.ensure_future(client[0].read(1))
            await clock.asked.wait()
            clock.advance(CONNECT_NS - 1)
            await asyncio.sleep(0)
            assert not answer.done()
            clock.advance(1)
            assert await answer == b"x"
            client[1].close()
        for filler in fillers:
            filler.close()


async def test_sticky_clients_keep_their_task() -> None:
    async def second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"second")
        writer.close()

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.close()

    async with listening(first) as target, listening(second, SECOND_ADDRESS, target):
        async with opened(target, (FIRST, SECOND_ADDRESS), sticky=True) as (_, number):
            answers = {await exchange(number, b"") for _ in range(6)}
        assert len(answers) == 1
        async with opened(target, (FIRST, SECOND_ADDRESS)) as (_, number):
            assert [await exchange(number, b"") for _ in range(4)] == [b"first", b"second"] * 2


async def test_the_header_comes_first_and_tells_the_client() -> None:
    async with (
        listening(read_all_then_repeat) as target,
        opened(target, proxy_protocol=True) as (_, number),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        client = writer.get_extra_info("sockname")
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == proxy_header(client, ("127.0.0.1", number)) + b"hello"
        writer.close()


async def read_all_then_repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    writer.close()


def test_headers_are_those_of_the_specification() -> None:
    signature = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21"
    four = proxy_header(("10.77.0.99", 40000), ("10.77.0.11", 80))
    assert four == signature + bytes.fromhex("11 000c 0a4d0063 0a4d000b 9c40 0050")
    assert proxy_header(("::ffff:10.77.0.99", 40000), ("::ffff:10.77.0.11", 80)) == four
    six = proxy_header(("fe80::1%eth0", 1), ("fd77::11", 2))
    addresses = IPv6Address("fe80::1").packed + IPv6Address("fd77::11").packed
    assert six == signature + bytes.fromhex("21 0024") + addresses + bytes.fromhex("0001 0002")


async def test_a_client_that_is_reset_resets_its_task() -> None:
    ended: asyncio.Future[type[Exception] | None] = asyncio.get_running_loop().create_future()

    async def wait_for_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            ended.set_result(None)
        except ConnectionError as error:
            ended.set_result(type(error))

    async with published(wait_for_the_end) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await ended is ConnectionResetError


IDLE = 1500
"""Connections; the way to a task has four descriptors here, and a process of this test may have few."""


async def test_idle_connections_cost_little_and_nothing_is_lost() -> None:
    limits = Limits(maximum=4 * IDLE)
    async with listening(echo) as target, opened(target, limits=limits) as (port, number):
        clients = []
        tracemalloc.start()
        for _ in range(IDLE):
            client = socket.create_connection(("127.0.0.1", number))
            client.setblocking(False)
            clients.append(client)
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        for client in clients:
            await loop.sock_sendall(client, b"x")
        assert [await loop.sock_recv(client, 1) for client in clients] == [b"x"] * IDLE
        snapshot = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, "*/miniworker/ingress/*")]
        )
        tracemalloc.stop()
        assert sum(item.size for item in snapshot.statistics("filename")) / IDLE < 4096
        for client in clients:
            client.close()
        while limits.open:
            closed = asyncio.Event()
            limits.call_when_closed(closed.set)
            await closed.wait()
        assert not port.busy


def test_a_descriptor_limit_leaves_some_for_others() -> None:
    limits = connection_limits(20000)
    assert 2 * limits.maximum < 20000
    assert limits.per_port < limits.maximum
    assert connection_limits(8).maximum >= 1


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
    poller = Poller()
    poller.start()
    port = UdpPort(key, counters, poller=poller, clock=clock)
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
    poller.close()
    transport.close()
    assert counters.open == 0
