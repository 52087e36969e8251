"""Tables of names for tests, questions as dnspython writes them, and a client that asks from an address of choice."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence

import dns.message
import dns.rdatatype
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2 as pb

ANSWER_SECONDS = 20.0
"""Longer than any answer takes; then the test fails."""


def network(
    ident: str, *, name: str = "", third: int = 1, gateway: str = "", internal: bool = False
) -> dispatch.AssignedNetwork:
    """10.0.<third>.0/24."""
    return dispatch.AssignedNetwork(
        id=ident,
        name=name or ident,
        subnet=f"10.0.{third}.0/24",
        gateway=gateway or f"10.0.{third}.1",
        internal=internal,
    )


def service(
    network_id: str,
    name: str,
    *,
    virtual: str = "",
    tasks: Sequence[str] = (),
    aliases: Sequence[str] = (),
    first_slot: int = 1,
) -> dispatch.NetworkService:
    """A service with a task for each address of `tasks`; their ids are the slot and then `x`."""
    return dispatch.NetworkService(
        network_id=network_id,
        service_id=f"id-{name}",
        name=name,
        aliases=aliases,
        virtual_address=virtual,
        backends=[
            dispatch.ServiceBackend(
                task_id=task_id(slot),
                address=address,
                slot=slot,
                container_name=f"{name}.{slot}.{task_id(slot)}",
            )
            for slot, address in enumerate(tasks, first_slot)
        ],
    )


def task_id(slot: int) -> str:
    return f"{slot}{'x' * 24}"


def client(address: str, *networks: str, nameservers: Sequence[str] = (), task: str = "asks") -> pb.DnsClient:
    return pb.DnsClient(task_id=task, addresses=[address], network_ids=networks, nameservers=nameservers)


def table(
    networks: Sequence[dispatch.AssignedNetwork],
    services: Sequence[dispatch.NetworkService] = (),
    clients: Sequence[pb.DnsClient] = (),
) -> pb.DnsTable:
    return pb.DnsTable(networks=networks, services=services, clients=clients)


def addresses(message: dns.message.Message) -> list[str]:
    """Of the A records of an answer, in their order."""
    return [str(item) for group in message.answer if group.rdtype == dns.rdatatype.A for item in group]


class DnsClient:
    """Asks the server at `server` from the address `source`."""

    def __init__(self, server: tuple[str, int], *, source: str) -> None:
        self._server = server
        self._source = source

    async def ask(
        self, name: str, kind: str = "A", *, tcp: bool = False, edns: bool = False
    ) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=edns, payload=1400 if edns else None)
        ask = self.ask_tcp if tcp else self.ask_udp
        answer = dns.message.from_wire(await ask(query.to_wire()))
        assert query.is_response(answer), answer
        return answer

    async def ask_udp(self, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.bind((self._source, 0))
            connection.connect(self._server)
            async with asyncio.timeout(ANSWER_SECONDS):
                await loop.sock_sendall(connection, packet)
                return await loop.sock_recv(connection, 65535)

    async def ask_tcp(self, packet: bytes) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(*self._server, local_addr=(self._source, 0))
            try:
                writer.write(struct.pack(">H", len(packet)) + packet)
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                return await reader.readexactly(length)
            finally:
                writer.close()
