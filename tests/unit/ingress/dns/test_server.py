"""The server on real sockets of this machine's loopback: 127.0.0.0/8 stands for the addresses of the networks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from minicommon.clock import VirtualClock
from miniproto.v1 import ingress_pb2 as pb
from miniworker.ingress.dns import forwarder, listener
from miniworker.ingress.dns.server import RETRY_NS, DnsServer, DnsSettings
from support.dns import DnsClient, addresses, client, network, service, table
from support.dns_upstream import Upstream, answering, refusing, silent
from support.ports import free_port

GATEWAY, OTHER_GATEWAY, ASKS, STRANGER = "127.0.1.1", "127.0.2.1", "127.0.1.5", "127.0.1.9"
FIRST, SECOND_SERVER = "127.0.9.1", "127.0.9.2"
BACKEND = network("n", name="backend", gateway=GATEWAY)
WEB = service("n", "web", virtual="10.0.1.2", tasks=("10.0.1.5", "10.0.1.6"))
CLIENT = client(ASKS, "n")
TABLE = table((BACKEND,), (WEB,), (CLIENT,))


@dataclass
class Node:
    """What the server finds on the node; `servers` are in the host's resolv.conf."""

    directory: Path
    port: int
    upstream_port: int
    servers: tuple[str, ...] = ()
    timeout: float = 30.0
    clock: VirtualClock = field(default_factory=VirtualClock)

    @property
    def kept(self) -> Path:
        return self.directory / "dns-table.pb"

    def client(self, source: str = ASKS, *, gateway: str = GATEWAY) -> DnsClient:
        return DnsClient((gateway, self.port), source=source)

    @asynccontextmanager
    async def server(self, first: pb.DnsTable | None = TABLE) -> AsyncIterator[DnsServer]:
        """One life of the process."""
        settings = DnsSettings(
            table=self.kept,
            netns_dir=self.directory,
            host_servers=lambda: self.servers,
            port=self.port,
            upstream_port=self.upstream_port,
            upstream_timeout=self.timeout,
        )
        server = DnsServer(settings, clock=self.clock, random=Random(1))
        try:
            await server.restore()
            if first is not None:
                assert await apply(server, first) == []
            yield server
        finally:
            await server.close()


async def apply(server: DnsServer, message: pb.DnsTable) -> list[str]:
    return await server.apply(await server.read(message), message)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM))


# --- names of ours ---


@pytest.mark.parametrize("tcp", [False, True])
async def test_names_are_answered(node: Node, tcp: bool) -> None:
    async with node.server():
        answer = await node.client().ask("web", tcp=tcp, edns=True)
        assert (addresses(answer), answer.edns) == (["10.0.1.2"], 0)
        stranger = await node.client(STRANGER).ask("web", tcp=tcp)
        assert stranger.rcode() == dns.rcode.REFUSED


async def test_what_is_cut_over_udp_is_whole_over_tcp(node: Node) -> None:
    many = service("n", "many", tasks=[f"10.0.1.{last}" for last in range(50, 250)])
    async with node.server(table((BACKEND,), (many,), (CLIENT,))):
        cut = await node.client().ask("many")
        assert cut.flags & dns.flags.TC
        assert len(addresses(await node.client().ask("many", tcp=True))) == 200


async def test_a_connection_may_ask_more_than_once(node: Node) -> None:
    async with node.server():
        reader, writer = await asyncio.open_connection(GATEWAY, node.port, local_addr=(ASKS, 0))
        packet = dns.message.make_query("web", "A").to_wire()
        writer.write((struct.pack(">H", len(packet)) + packet) * 2)
        for _ in range(2):
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            assert addresses(dns.message.from_wire(await reader.readexactly(length))) == ["10.0.1.2"]
        writer.close()


async def test_when_apply_returns_a_removed_task_is_in_no_answer(node: Node) -> None:
    async with node.server() as server:
        assert sorted(addresses(await node.client().ask("tasks.web"))) == ["10.0.1.5", "10.0.1.6"]
        left = service("n", "web", virtual="10.0.1.2", tasks=("10.0.1.6",), first_slot=2)
        await apply(server, table((BACKEND,), (left,), (CLIENT,)))
        assert addresses(await node.client().ask("tasks.web")) == ["10.0.1.6"]


async def test_a_network_comes_and_goes_with_its_listener(node: Node) -> None:
    other = network("o", name="other", third=2, gateway=OTHER_GATEWAY)
    async with node.server() as server:
        await apply(server, table((BACKEND, other), (WEB,), (CLIENT, client("127.0.2.5", "o", "n"))))
        asks = node.client("127.0.2.5", gateway=OTHER_GATEWAY)
        assert addresses(await asks.ask("web")) == ["10.0.1.2"]
        await apply(server, TABLE)
        for ask in (asks.ask_udp, asks.ask_tcp):
            with pytest.raises(ConnectionRefusedError):
                await ask(dns.message.make_query("web", "A").to_wire())
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]


async def test_a_network_whose_gateway_is_not_there_yet_is_no_problem(node: Node) -> None:
    far = network("far", third=7, gateway="10.255.254.1")
    async with node.server(table((BACKEND, far), (WEB,), (CLIENT,))):
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]


async def test_garbage_is_answered_or_dropped_and_harms_nothing(node: Node) -> None:
    async with node.server():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.bind((ASKS, 0))
            for packet in (b"", b"\0", b"\0" * 12, b"\xff" * 100, bytes(range(256)) * 20):
                flood.sendto(packet, (GATEWAY, node.port))
        answer = await node.client().ask_udp(b"\x12\x34" + b"\0" * 10)
        assert dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR
        with contextlib.suppress(asyncio.IncompleteReadError):
            await node.client().ask_tcp(b"\xff" * 5)
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]


async def test_more_connections_than_a_client_may_have_are_closed(node: Node) -> None:
    async with node.server():
        held = [
            await asyncio.open_connection(GATEWAY, node.port, local_addr=(ASKS, 0))
            for _ in range(listener.MOST_CONNECTIONS_OF_ONE)
        ]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await node.client().ask_tcp(dns.message.make_query("web", "A").to_wire())
        assert (await node.client(STRANGER).ask("web", tcp=True)).rcode() == dns.rcode.REFUSED
        for _, writer in held:
            writer.close()


async def test_an_address_that_somebody_else_holds_is_told_and_tried_again(node: Node) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((GATEWAY, node.port))
        async with node.server(None) as server:
            (problem,) = await apply(server, TABLE)
            assert problem.startswith(f"network backend: names of its network cannot be served at {GATEWAY}")
            assert "held by" in problem
            holder.close()
            assert addresses(await retried(node)) == ["10.0.1.2"]


# --- restarts ---


async def test_a_new_process_answers_before_the_agent_speaks(node: Node) -> None:
    async with node.server():
        pass
    async with node.server(None):
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]


@pytest.mark.parametrize("content", [b"\xff\xff", table((), (WEB,)).SerializeToString()])
async def test_a_kept_table_that_cannot_be_used_is_left(node: Node, content: bytes) -> None:
    node.kept.write_bytes(content)
    async with node.server(None) as server:
        await apply(server, TABLE)
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]


async def test_a_table_that_cannot_be_kept_leaves_no_older_one(node: Node) -> None:
    async with node.server() as server:
        node.kept.with_name("dns-table.pb.new").mkdir()
        await apply(server, table((BACKEND,), (), (CLIENT,)))
        assert not node.kept.exists()


# --- names of others ---


@pytest.mark.parametrize("tcp", [False, True])
async def test_other_names_are_asked_of_the_hosts_servers(node: Node, tcp: bool) -> None:
    node.servers = (FIRST,)
    async with Upstream(FIRST, node.upstream_port, answering("192.0.2.1")) as upstream, node.server():
        assert addresses(await node.client().ask("example.com", tcp=tcp)) == ["192.0.2.1"]
        assert addresses(await node.client().ask("single", tcp=tcp)) == ["192.0.2.1"]
        assert [str(query.question[0].name) for query in upstream.asked] == ["example.com.", "single."]


async def test_ids_and_ports_cannot_be_guessed(node: Node) -> None:
    node.servers = (FIRST,)
    async with Upstream(FIRST, node.upstream_port, answering("192.0.2.1")) as upstream, node.server():
        for _ in range(20):
            await node.client().ask("example.com")
        assert len({query.id for query in upstream.asked}) > 15
        assert len(set(upstream.sources)) > 15


@pytest.mark.parametrize(
    "code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP, None]
)
async def test_after_a_failure_the_next_server_is_asked(node: Node, code: dns.rcode.Rcode | None) -> None:
    node.servers = ("not an address", FIRST, SECOND_SERVER)
    if code is None:
        node.timeout = 0.05
    first = silent if code is None else refusing(code)
    async with (
        Upstream(FIRST, node.upstream_port, first) as failing,
        Upstream(SECOND_SERVER, node.upstream_port, answering("192.0.2.2")),
        node.server(),
    ):
        assert addresses(await node.client().ask("example.com")) == ["192.0.2.2"]
        assert len(failing.asked) == 1


async def test_a_server_that_is_not_there_costs_no_wait(node: Node) -> None:
    node.servers = (FIRST, SECOND_SERVER)
    async with Upstream(SECOND_SERVER, node.upstream_port, answering("192.0.2.2")), node.server():
        for tcp in (False, True):
            assert addresses(await node.client().ask("example.com", tcp=tcp)) == ["192.0.2.2"]


@pytest.mark.parametrize("tcp", [False, True])
async def test_when_nobody_answers_the_client_is_told(node: Node, tcp: bool) -> None:
    async with node.server():
        assert (await node.client().ask("example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL
        node.servers = (FIRST,)
        assert (await node.client().ask("example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


async def test_that_there_is_no_such_name_is_an_answer(node: Node) -> None:
    node.servers = (FIRST, SECOND_SERVER)
    async with (
        Upstream(FIRST, node.upstream_port, refusing(dns.rcode.NXDOMAIN)),
        Upstream(SECOND_SERVER, node.upstream_port, answering("192.0.2.2")),
        node.server(),
    ):
        assert (await node.client().ask("example.com")).rcode() == dns.rcode.NXDOMAIN


async def test_an_answer_to_something_else_is_passed_over(node: Node) -> None:
    def confused(query: dns.message.Message) -> list[dns.message.Message | bytes]:
        other = dns.message.make_query("other.example", "A")
        other.id = query.id
        foreign, (right,) = dns.message.make_response(query), answering("192.0.2.1")(query)
        foreign.id = query.id ^ 1
        return [b"junk", dns.message.make_response(other), foreign, right]

    node.servers = (FIRST,)
    async with Upstream(FIRST, node.upstream_port, confused), node.server():
        assert addresses(await node.client().ask("example.com")) == ["192.0.2.1"]


async def test_an_upstream_that_ends_a_stream_early_has_failed(node: Node) -> None:
    node.servers = (FIRST,)
    async with Upstream(FIRST, node.upstream_port, silent), node.server():
        assert (await node.client().ask("example.com", tcp=True)).rcode() == dns.rcode.SERVFAIL


async def test_the_servers_own_addresses_are_never_asked(node: Node) -> None:
    node.servers = (GATEWAY, FIRST)
    node.upstream_port = node.port
    async with Upstream(FIRST, node.port, answering("192.0.2.1")), node.server():
        assert addresses(await node.client().ask("example.com")) == ["192.0.2.1"]


async def test_one_client_cannot_keep_the_others_from_asking(node: Node) -> None:
    node.servers = (FIRST,)
    clients = (CLIENT, client("127.0.1.6", "n", task="other"))
    query = dns.message.make_query("example.com", "A").to_wire()
    async with (
        Upstream(FIRST, node.upstream_port, silent) as upstream,
        node.server(table((BACKEND,), (WEB,), clients)),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.bind((ASKS, 0))
            for _ in range(forwarder.IN_FLIGHT_OF_ONE):
                flood.sendto(query, (GATEWAY, node.port))
            await until(upstream, lambda: len(upstream.asked) == forwarder.IN_FLIGHT_OF_ONE)
        assert (await node.client().ask("example.com")).rcode() == dns.rcode.SERVFAIL
        assert addresses(await node.client().ask("web")) == ["10.0.1.2"]
        upstream.behavior = answering("192.0.2.1")
        assert addresses(await node.client("127.0.1.6").ask("example.com")) == ["192.0.2.1"]


async def retried(node: Node) -> dns.message.Message:
    """The first answer, while time goes on."""
    while True:
        await asyncio.sleep(0)
        node.clock.advance(RETRY_NS)
        with contextlib.suppress(ConnectionRefusedError):
            return await node.client().ask("web")


async def until(upstream: Upstream, condition: Callable[[], bool]) -> None:
    while not condition():
        upstream.arrived.clear()
        await upstream.arrived.wait()
