"""Containers of `minictl run` through a manager: real agents over mutual TLS, on runtimes in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from miniproto.v1 import control_pb2, objects_pb2
from miniproto.v1 import streams_pb2 as pb
from support.agents import IMAGE, Site, site
from support.manager import manager_in_process
from support.runtimes import ECHO, FAILS, MISSING, RUNS

PATIENCE = 20.0


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Site]:
    async with manager_in_process() as manager, site(manager, tmp_path, 2) as running:
        yield running


def _start(command: tuple[str, ...], name: str = "one", *, image: str = IMAGE, **options: Any) -> pb.RunInput:
    spec = objects_pb2.ServiceSpec(name=name)
    spec.task.container.image = image
    spec.task.container.command.extend(command)
    return pb.RunInput(start=pb.RunStart(spec=spec, **options))


async def _run(site: Site, start: pb.RunInput, *inputs: pb.StreamInput) -> list[pb.RunOutput]:
    call: Any = site.containers.Run(timeout=PATIENCE)
    await call.write(start)
    for each in inputs:
        await call.write(pb.RunInput(input=each))
    return [output async for output in call]


async def _services(site: Site) -> list[str]:
    """Those of `run` too."""
    filters = [control_pb2.Filter(key="label", values=["mini.run"])]
    response = await site.local.services.List(control_pb2.ListRequest(filters=filters))
    return [view.service.spec.name for view in response.services]


async def _gone(site: Site) -> None:
    async with asyncio.timeout(PATIENCE):
        while await _services(site):
            pass


def _text(outputs: list[pb.RunOutput]) -> tuple[bytes, bytes, int]:
    stdout = b"".join(each.output.stdout for each in outputs)
    stderr = b"".join(each.output.stderr for each in outputs)
    return stdout, stderr, outputs[-1].output.exited.code


async def test_it_runs_once_and_tells_all(two: Site) -> None:
    outputs = await _run(two, _start(FAILS, remove=True))
    assert len(outputs[0].task_id) == 25
    assert _text(outputs) == (b"out\n", b"err\n", 3)
    assert await _services(two) == []
    outputs = await _run(two, _start(FAILS, remove=True))
    assert outputs[-1].output.exited.code == 3, "its name was free at once"


async def test_it_reads_what_is_typed(two: Site) -> None:
    typed = pb.StreamInput(data=b"hello\n"), pb.StreamInput(end=True)
    outputs = await _run(two, _start(ECHO, stdin=True, remove=True), *typed)
    assert _text(outputs) == (b"hello\n", b"", 0)


async def test_one_that_is_not_removed_is_hidden_among_services_and_shown_among_containers(two: Site) -> None:
    await _run(two, _start(FAILS, "kept"))
    assert await _services(two) == ["kept"]
    assert not (await two.local.services.List(control_pb2.ListRequest())).services
    listed = (await two.containers.List(pb.ListContainersRequest(all=True))).containers
    assert [(each.name, each.status, each.one_off) for each in listed] == [("kept", "exited", True)]
    logs = [each async for each in two.containers.Logs(pb.LogsRequest(ref="kept"))]
    assert sorted(line.data for each in logs for line in each.lines) == [b"err", b"out"]


async def test_it_is_removed_when_its_client_goes_away(two: Site) -> None:
    call: Any = two.containers.Run()
    await call.write(_start(RUNS, remove=True))
    while not (await call.read()).output.HasField("started"):
        pass
    call.cancel()
    await _gone(two)


async def test_one_in_the_background_is_removed_when_it_has_ended(two: Site) -> None:
    (told,) = await _run(two, _start(RUNS, detach=True, remove=True))
    assert await _services(two) == ["one"]
    listed = (await two.containers.List(pb.ListContainersRequest())).containers
    (info,) = [each for each in listed if each.id == told.task_id]
    two.node(info.node_id).runtime.finish(told.task_id, 0)
    await _gone(two)


@pytest.mark.parametrize(
    ("start", "code", "text"),
    [
        (
            _start(MISSING),
            grpc.StatusCode.FAILED_PRECONDITION,
            'exec: "nosuchprogram": executable file not found in $PATH',
        ),
        (_start(RUNS, image="nosuch:1"), grpc.StatusCode.FAILED_PRECONDITION, "No such image: nosuch:1"),
        (_start(RUNS, name=""), grpc.StatusCode.INVALID_ARGUMENT, "meta: name must be provided"),
        (pb.RunInput(), grpc.StatusCode.INVALID_ARGUMENT, "message: the first one must be start"),
    ],
)
async def test_what_cannot_be_started_says_why(
    two: Site, start: pb.RunInput, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _run(two, start)
    assert (caught.value.code(), caught.value.details()) == (code, text)


async def test_only_attachable_networks_and_ports_of_the_host_can_be_asked_for(two: Site) -> None:
    network = _start(RUNS)
    network.start.spec.task.networks.add(network="ingress")
    port = _start(RUNS)
    port.start.spec.ports.add(target_port=80, published_port=8080)
    for start, text in ((network, "network ingress not manually attachable"), (port, "mode=host")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _run(two, start)
        assert text in (caught.value.details() or "")
    assert await _services(two) == []


async def test_why_it_waits_is_told(two: Site) -> None:
    start = _start(RUNS)
    start.start.spec.placement.constraints.append("node.labels.zone==mars")
    call: Any = two.containers.Run(timeout=PATIENCE)
    await call.write(start)
    told = await call.read()
    while not told.progress:
        told = await call.read()
    assert "no suitable node" in told.progress
    call.cancel()


async def test_an_image_of_no_registry_is_run_where_it_is(two: Site) -> None:
    two.nodes[1].runtime.images.put("sha256:" + "a" * 64, "docker.io/library/here:1", 1, 1)
    for _ in range(3):
        await _run(two, _start(FAILS, image="here:1", remove=True))
    assert not [call for call in two.nodes[0].runtime.calls if call[0] == "create"]
    assert len([call for call in two.nodes[1].runtime.calls if call[0] == "create"]) == 3


async def test_it_is_connected_to_networks_and_disconnected_while_it_runs(two: Site) -> None:
    networks = two.local.networks
    for name, attachable in (("open", True), ("closed", False)):
        spec = objects_pb2.NetworkSpec(name=name, attachable=attachable)
        await networks.Create(control_pb2.CreateNetworkRequest(spec=spec))
    await _run(two, _start(RUNS, detach=True))
    await _run(two, _start(FAILS, "over"))
    web = objects_pb2.ServiceSpec(name="web", replicas=1)
    web.task.container.image = IMAGE
    web.task.container.command.extend(RUNS)
    await two.local.services.Create(control_pb2.CreateServiceRequest(spec=web))
    await two.local.running("web", 1)

    def connect(container: str, ref: str = "open", *aliases: str) -> Any:
        request = control_pb2.ConnectNetworkRequest(ref=ref, container=container, aliases=aliases)
        return networks.Connect(request)

    def disconnect(container: str) -> Any:
        return networks.Disconnect(control_pb2.DisconnectNetworkRequest(ref="open", container=container))

    async def view() -> Any:
        return await networks.GetDetails(control_pb2.GetRequest(ref="open"))

    async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code(), caught.value.details() or ""

    await connect("one", "open", "oracle")
    (there,) = (await view()).services
    assert (there.name, [task.address for task in there.tasks]) == ("one", ["10.0.1.2"])
    assert await refused(connect("one")) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "endpoint with name one already exists in network open",
    )
    assert await refused(connect("one", "closed")) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "Could not attach to network closed: network closed not manually attachable",
    )
    state = grpc.StatusCode.FAILED_PRECONDITION
    assert await refused(connect("over")) == (state, "container over is not running")
    code, text = await refused(connect("web.1"))
    assert (code, "belongs to service web" in text) == (state, True)
    assert (await refused(connect("nobody")))[0] is grpc.StatusCode.NOT_FOUND
    assert (await refused(connect("one", "none")))[0] is grpc.StatusCode.NOT_FOUND
    assert (await refused(connect("over", "open", "-")))[0] is state
    await disconnect("one")
    assert list((await view()).services) == []
    assert await refused(disconnect("one")) == (state, "container one is not connected to network open")
    code, text = await refused(connect("one", "open", "not a name"))
    assert (code, "alias" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    await networks.Remove(control_pb2.RemoveNetworkRequest(ref="open"))
