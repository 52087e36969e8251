"""Handing the port table to a process that may be replaced at any moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from minicommon.errors import UnavailableError
from minicommon.rpc.channel import unix_channel
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2 as pb
from miniproto.v1 import ingress_pb2_grpc
from miniworker.agent.ingress_client import IngressClient, IngressWant

PORT = dispatch.PublishedPort(published_port=4567, target_port=80)


class Ingress(ingress_pb2_grpc.IngressServicer):
    """One life of the process."""

    def __init__(self, socket: Path, *, problems: tuple[pb.PortProblem, ...] = (), dns: str = "") -> None:
        self.tables: list[pb.IngressTable] = []
        self._problems = problems
        self._dns_problems = [dns] if dns else []
        self._server = grpc.aio.server()
        ingress_pb2_grpc.add_IngressServicer_to_server(self, self._server)
        socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{socket}")

    async def start(self) -> Ingress:
        await self._server.start()
        return self

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Apply(self, request: pb.IngressTable, context: Any) -> pb.IngressApplied:
        self.tables.append(request)
        return pb.IngressApplied(
            revision=request.revision, problems=self._problems, dns_problems=self._dns_problems
        )

    async def Status(self, request: pb.IngressStatusRequest, context: Any) -> pb.IngressStatus:
        return pb.IngressStatus()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "ingress.sock"


@pytest.fixture
async def channel(socket: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with unix_channel(socket) as channel:
        yield channel


async def test_the_table_waits_for_a_process_that_is_just_starting(
    socket: Path, channel: grpc.aio.Channel
) -> None:
    applying = asyncio.create_task(IngressClient(channel, node_id="n").apply(IngressWant((PORT,))))
    await asyncio.sleep(0)
    ingress = await Ingress(socket).start()
    await applying
    assert [(table.node_id, list(table.ports)) for table in ingress.tables] == [("n", [PORT])]
    await ingress.stop()


async def test_a_replaced_process_is_noticed(socket: Path, channel: grpc.aio.Channel) -> None:
    client = IngressClient(channel, node_id="n")
    lost = asyncio.Event()
    watching = asyncio.create_task(client.watch(lost.set))
    first = await Ingress(socket).start()
    await client.apply(IngressWant((PORT,)))
    assert not lost.is_set()
    await first.stop()
    second = await Ingress(socket).start()
    await lost.wait()
    await client.apply(IngressWant((PORT,)))
    assert list(second.tables[0].ports) == [PORT]
    assert second.tables[0].revision > first.tables[0].revision
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await second.stop()


async def test_a_port_that_cannot_be_served_is_logged_and_stops_nothing(
    socket: Path, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    problem = pb.PortProblem(published_port=4567, message="port 4567/tcp is in use by nginx (pid 7)")
    ingress = await Ingress(socket, problems=(problem,), dns="network backend: in use").start()
    with caplog.at_level(logging.WARNING):
        await IngressClient(channel, node_id="n").apply(IngressWant((PORT,)))
    record, names = caplog.records
    assert vars(record)["port"] == "4567/tcp"
    assert vars(record)["error"] == "port 4567/tcp is in use by nginx (pid 7)"
    assert vars(names)["error"] == "network backend: in use"
    await ingress.stop()


async def test_a_refusal_is_an_error_to_try_again(socket: Path, channel: grpc.aio.Channel) -> None:
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    with pytest.raises(UnavailableError, match="mini-ingress did not take the table"):
        await IngressClient(channel, node_id="n").apply(IngressWant((PORT,)))
    await server.stop(None)
