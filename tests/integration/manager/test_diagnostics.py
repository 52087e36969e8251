"""What nodes say of their networks, asked through a manager: real agents, data planes in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import grpc
import pytest
from minicommon.identity.names import Caller
from miniproto.v1 import control_pb2, objects_pb2, streams_pb2_grpc
from miniproto.v1 import streams_pb2 as pb
from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.network.api import Difference, Hop, Traced
from support.agents import IMAGE, Site, site
from support.manager import manager_in_process
from support.runtimes import RUNS

BACK = IPv4Address("10.0.0.3")


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Site]:
    async with manager_in_process() as manager, site(manager, tmp_path, 2) as running:
        yield running


def diagnostics(running: Site) -> Any:
    return streams_pb2_grpc.DiagnosticsStub(running.local.channel)


async def check(running: Site, node: str = "") -> dict[str, pb.NodeNetworkReport]:
    answer = await diagnostics(running).CheckNetwork(pb.CheckNetworkRequest(node=node))
    return {report.node_id: report for report in answer.nodes}


async def published(running: Site) -> list[control_pb2.TaskView]:
    """A service on every node with a published port: so there is something to tell."""
    spec = objects_pb2.ServiceSpec(name="web", replicas=2)
    spec.task.container.image = IMAGE
    spec.task.container.command.extend(RUNS)
    spec.ports.append(objects_pb2.PortConfig(target_port=80, published_port=4567))
    await running.local.services.Create(control_pb2.CreateServiceRequest(spec=spec))
    return list((await running.local.running("web", 2)).tasks)


async def test_nodes_that_are_as_they_should_be_say_so(two: Site) -> None:
    await published(two)
    reports = await check(two)
    for node in two.nodes:
        report = reports[node.node_id]
        assert (report.problem, list(report.untold), list(report.surplus), list(report.differences)) == (
            "",
            [],
            [],
            [],
        )
        assert report.node_hostname == node.hostname


async def test_what_differs_in_a_kernel_is_named(two: Site) -> None:
    changed = two.nodes[1]
    changed.data_plane.differences = (
        Difference("bridge", "", "mbr-9qv2cn8t", missing=True),
        Difference("rules", "task1", "chain ip mini x", missing=False),
    )
    reports = await check(two)
    assert [
        (item.kind, item.task_id, item.item, item.missing) for item in reports[changed.node_id].differences
    ] == [("bridge", "", "mbr-9qv2cn8t", True), ("rules", "task1", "chain ip mini x", False)]
    assert not reports[two.nodes[0].node_id].differences
    assert set(await check(two, changed.hostname)) == {changed.node_id}


async def test_what_a_node_was_told_otherwise_is_named(two: Site) -> None:
    """Somebody comes between: nothing else makes a node differ for longer than a moment."""
    await published(two)
    node = two.nodes[0]
    honest = node.answers["network"]

    async def lie(query: pb.NetworkQuery, inputs: Inputs) -> Outputs:
        async for output in honest(query, inputs):
            for item in output.network.told:
                item.key = item.key.replace("port/tcp/4567", "port/udp/99")
            yield output

    node.answers["network"] = lie
    report = (await check(two, node.node_id))[node.node_id]
    assert list(report.untold) == ["port/tcp/4567"]
    assert list(report.surplus) == ["port/udp/99"]


async def test_a_node_that_cannot_be_asked_is_no_well_node(two: Site) -> None:
    gone = two.nodes[0]
    await gone.stop()
    assert (await check(two))[
        gone.node_id
    ].problem == f"node {gone.hostname} is not connected to this manager"


async def trace(running: Site, node: str, **fields: Any) -> pb.TraceResponse:
    fields = {"client": "10.77.0.99", "port": 4567, **fields}
    answer: pb.TraceResponse = await diagnostics(running).Trace(pb.TraceRequest(node=node, **fields))
    return answer


async def test_a_trace_names_tasks_and_nodes_and_asks_for_the_way_back(two: Site) -> None:
    views = await published(two)
    entry, other = two.nodes
    (here,) = [view.task for view in views if view.task.node_id == entry.node_id]
    (there,) = [view.task for view in views if view.task.node_id == other.node_id]
    entry.data_plane.traced = Traced(
        "led",
        ("map served: tcp . 4567 -> tcp-4567",),
        "in turn",
        (
            Hop(IPv4Address("10.0.0.5"), 80, here.id, entry.node_id, "mve-1"),
            Hop(IPv4Address("10.0.0.6"), 80, there.id, "", "mvx-1", IPv4Address("10.77.0.12")),
        ),
        back_to=BACK,
    )
    answer = await trace(two, entry.hostname)
    assert answer.node_hostname == entry.hostname
    assert [(hop.task_name, hop.node_hostname) for hop in answer.packet.targets] == [
        (f"web.{here.slot}", entry.hostname),
        (f"web.{there.slot}", other.hostname),
    ]
    (back,) = answer.back
    assert (back.address, back.node_hostname) == (str(BACK), other.hostname)
    assert back.problem == "there is no such address"
    by_address = await trace(two, answer.destination)
    assert by_address.node_id == entry.node_id


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"port": 0}, grpc.StatusCode.INVALID_ARGUMENT, "port: must be from 1 to 65535, got 0"),
        ({"client": "me"}, grpc.StatusCode.INVALID_ARGUMENT, "client: must be an IPv4 address, got 'me'"),
        ({"protocol": 2}, grpc.StatusCode.INVALID_ARGUMENT, "protocol: must be tcp or udp, got 2"),
        ({"node": "10.1.1.1"}, grpc.StatusCode.NOT_FOUND, "node: no node has the address 10.1.1.1"),
        ({"node": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
    ],
)
async def test_a_trace_of_nothing_is_refused(
    two: Site, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await trace(two, **{"node": two.nodes[0].hostname, **fields})
    assert raised.value.code() is code
    assert text in (raised.value.details() or "")


async def test_viewers_may_ask(two: Site) -> None:
    viewer = await two.manager.member(Caller.VIEWER)
    stub: Any = streams_pb2_grpc.DiagnosticsStub(viewer.channel)
    assert len((await stub.CheckNetwork(pb.CheckNetworkRequest())).nodes) == 3
