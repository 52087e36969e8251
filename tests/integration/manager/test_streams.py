"""Containers through a manager: real agents over mutual TLS, on runtimes in memory."""

from __future__ import annotations

import asyncio
import io
import logging
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from minicommon.errors import NotFoundError
from minicommon.identity.names import Caller
from minicommon.rpc.channel import manager_channel
from minimanager.rpc.node_streams import NodeStreams
from miniproto.v1 import streams_pb2 as pb
from miniproto.v1 import streams_pb2_grpc as rpc
from support.agents import Site, site
from support.manager import manager_in_process
from support.runtimes import ECHO, FAILS, LINES, MISSING, RUNS

PATIENCE = 20.0


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Site]:
    async with manager_in_process() as manager, site(manager, tmp_path, 3) as running:
        yield running


async def _exec(
    containers: Any,
    ref: str,
    command: tuple[str, ...],
    stdin: bytes | None = None,
    **options: Any,
) -> list[pb.StreamOutput]:
    call: Any = containers.Exec(timeout=PATIENCE)
    query = pb.ExecQuery(command=command, stdin=stdin is not None, **options)
    await call.write(pb.ExecInput(start=pb.ExecStart(ref=ref, options=query)))
    if stdin is not None:
        await call.write(pb.ExecInput(input=pb.StreamInput(data=stdin)))
        await call.write(pb.ExecInput(input=pb.StreamInput(end=True)))
    await call.done_writing()
    return [output async for output in call]


async def test_a_command_is_run_on_whichever_node_has_the_task(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=3)
    assert len({view.task.node_id for view in tasks}) == 3
    for slot in (1, 2, 3):
        started, *output, exited = await _exec(three.containers, f"web.{slot}", FAILS)
        assert started.HasField("started")
        assert b"".join(each.stdout for each in output) == b"out\n"
        assert b"".join(each.stderr for each in output) == b"err\n"
        assert exited.exited.code == 3


@pytest.mark.parametrize("how", ["id", "prefix", "name", "container"])
async def test_a_container_has_many_names(three: Site, how: str) -> None:
    (view,) = await three.create("web", RUNS)
    task = view.task
    refs = {"id": task.id, "prefix": task.id[:8], "name": "web.1", "container": f"web.1.{task.id}"}
    assert (await _exec(three.containers, refs[how], LINES))[-1].exited.code == 0


async def test_what_is_typed_arrives_and_ends(three: Site) -> None:
    await three.create("web", RUNS)
    outputs = await _exec(three.containers, "web.1", ECHO, stdin=b"hello\n")
    assert b"".join(each.stdout for each in outputs) == b"hello\n"
    assert outputs[-1].exited.code == 0


@pytest.mark.parametrize(
    ("ref", "command", "code", "text"),
    [
        ("nothing", LINES, grpc.StatusCode.NOT_FOUND, "No such container: nothing"),
        ("", LINES, grpc.StatusCode.INVALID_ARGUMENT, "container: a name or id must be given"),
        ("web.1", (), grpc.StatusCode.INVALID_ARGUMENT, "options.command: a command to run must be given"),
        (
            "web.1",
            MISSING,
            grpc.StatusCode.FAILED_PRECONDITION,
            'OCI runtime exec failed: exec: "nosuchprogram": executable file not found in $PATH',
        ),
    ],
)
async def test_refusals_say_why(
    three: Site, ref: str, command: tuple[str, ...], code: grpc.StatusCode, text: str
) -> None:
    await three.create("web", RUNS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _exec(three.containers, ref, command)
    assert (caught.value.code(), caught.value.details()) == (code, text)


async def test_a_client_that_goes_away_ends_its_command(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    runtime = three.node(view.task.node_id).runtime
    call: Any = three.containers.Exec()
    query = pb.ExecQuery(command=ECHO, stdin=True)
    await call.write(pb.ExecInput(start=pb.ExecStart(ref="web.1", options=query)))
    started: Any = await call.read()
    assert started.HasField("started")
    (talk,) = runtime.talks
    call.cancel()
    assert await asyncio.wait_for(talk.wait(), PATIENCE) == 137


async def test_a_node_that_goes_away_ends_the_call_with_its_name(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    node = three.node(view.task.node_id)
    call: Any = three.containers.Exec(timeout=PATIENCE)
    query = pb.ExecQuery(command=ECHO, stdin=True)
    await call.write(pb.ExecInput(start=pb.ExecStart(ref="web.1", options=query)))
    await call.read()
    await node.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == f"node {node.hostname} went away"
    with pytest.raises(grpc.aio.AioRpcError) as again:
        await _exec(three.containers, view.task.id, LINES)
    assert again.value.details() == f"node {node.hostname} is not connected to this manager"


async def test_only_the_node_that_was_asked_may_open_the_stream(
    three: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = three.nodes[0]
    async with other.dial(f"127.0.0.1:{three.manager.control_port}") as channel:
        for stream_id in ("", "made-up"):
            call: Any = rpc.NodeStreamsStub(channel).Open(timeout=PATIENCE)
            await call.write(pb.StreamOutput(stream_id=stream_id))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "A node opened a stream that it was not asked for." in caplog.text


async def test_a_viewer_looks_and_an_operator_talks(three: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (view,) = await three.create("web", RUNS)
    viewer = rpc.ContainersStub((await three.manager.member(Caller.VIEWER, "eve")).channel)
    assert len((await viewer.List(pb.ListContainersRequest())).containers) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _exec(viewer, "web.1", LINES)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    operator = rpc.ContainersStub((await three.manager.member(Caller.OPERATOR, "olga")).channel)
    await _exec(operator, "web.1", LINES)
    (record,) = [each for each in caplog.records if each.message == "Container command."]
    assert (record.action, record.caller, record.task_id) == ("exec", "operator olga", view.task.id)  # type: ignore[attr-defined]


async def test_containers_of_all_nodes_are_listed_and_filtered(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=3)
    await three.create("other", RUNS)

    async def names(*filters: tuple[str, str], all: bool = False) -> list[str]:
        request = pb.ListContainersRequest(all=all)
        for key, value in filters:
            request.filters.add(key=key, values=[value])
        return sorted(each.task_name for each in (await three.containers.List(request)).containers)

    assert await names() == ["other.1", "web.1", "web.2", "web.3"]
    assert await names(("name", "web")) == ["web.1", "web.2", "web.3"]
    assert await names(("service", "other")) == ["other.1"]
    assert await names(("id", tasks[1].task.id[:10])) == ["web.2"]
    hostname = three.node(tasks[0].task.node_id).hostname
    assert "web.1" in await names(("node", hostname))
    three.node(tasks[0].task.node_id).runtime.finish(tasks[0].task.id, 4)
    assert "web.1" in await names(("exited", "4"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await names(("color", "red"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_node_that_is_away_is_named_in_the_list(three: Site) -> None:
    await three.create("web", RUNS, replicas=3)
    await three.nodes[2].stop()
    response = await three.containers.List(pb.ListContainersRequest())
    assert len(response.containers) == 2
    assert list(response.warnings) == [
        f"node {three.nodes[2].hostname} is not connected: its containers are not shown"
    ]


async def test_inspect_and_stats(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    details = await three.containers.Inspect(pb.InspectContainerRequest(ref="web.1"))
    assert (details.info.id, details.info.task_name) == (view.task.id, "web.1")
    assert tuple(details.arguments) == RUNS
    samples = [each async for each in three.containers.Stats(pb.StatsRequest(once=True))]
    assert list(samples[0].asked_node_ids) == sorted(node.node_id for node in three.nodes)
    (used,) = [usage for sample in samples for usage in sample.containers]
    assert used.id == view.task.id
    assert used.node_hostname == three.node(view.task.node_id).hostname


async def test_attach_hears_a_container_and_leaves_it_running(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    runtime = three.node(view.task.node_id).runtime
    call: Any = three.containers.Attach(timeout=PATIENCE)
    await call.write(pb.AttachInput(start=pb.AttachStart(ref="web.1")))
    started: Any = await call.read()
    assert started.HasField("started")
    runtime.write(view.task.id, "stdout", b"heard")
    heard: Any = await call.read()
    assert heard.stdout == b"heard\n"
    runtime.finish(view.task.id, 9)
    exited: Any = await call.read()
    assert exited.exited.code == 9


async def test_a_port_is_forwarded_from_inside_the_container(three: Site) -> None:
    await three.create("web", RUNS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        call: Any = three.containers.Forward(timeout=PATIENCE)
        await call.write(pb.ForwardInput(start=pb.ForwardStart(ref="web.1", port=port)))
        await call.write(pb.ForwardInput(input=pb.StreamInput(data=b"x" * 300_000)))
        await call.write(pb.ForwardInput(input=pb.StreamInput(end=True)))
        data = b"".join([output.data async for output in call])
    assert data == b"X" * 300_000
    refused: Any = three.containers.Forward(timeout=PATIENCE)
    await refused.write(pb.ForwardInput(start=pb.ForwardStart(ref="web.1", port=port)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await refused.read()
    assert "Connection refused" in (caught.value.details() or "")


async def test_files_are_copied_and_images_made_where_the_container_is(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"bytes"))
    start = pb.CopyToStart(ref="web.1", path="/tmp")
    parts = [pb.CopyToInput(start=start), pb.CopyToInput(data=archive.getvalue())]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await three.containers.CopyTo(iter(parts), timeout=2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, (
        "an archive that is broken off is not unpacked"
    )
    await three.containers.CopyTo(iter([*parts, pb.CopyToInput(end=True)]), timeout=PATIENCE)
    outputs = [
        each async for each in three.containers.CopyFrom(pb.CopyFromRequest(ref="web.1", path="/tmp/file"))
    ]
    assert outputs[0].path.name == "file"
    assert b"bytes" in b"".join(each.data for each in outputs)
    options = pb.CommitQuery(reference="made:1")
    image = await three.containers.Commit(pb.CommitRequest(ref="web.1", options=options))
    node = three.node(view.task.node_id)
    assert (image.node_id, image.node_hostname) == (node.node_id, node.hostname)
    assert any(image.id == each.id for each in await node.runtime.images.list_images())


class OneManager:
    """Knows of one other manager, which holds every session."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def nodes(self) -> list[str]:
        return [node.node_id for node in self._site.nodes]

    def address(self, node_id: str) -> str:
        return f"127.0.0.1:{self._site.manager.control_port}"

    def dial(self, address: str) -> grpc.aio.Channel:
        return manager_channel(address, self._site.manager.home.credentials(Caller.MANAGER, "m" * 25))


async def test_a_node_of_another_manager_is_asked_through_that_one(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    elsewhere = NodeStreams(lambda node_id: node_id, OneManager(three))
    assert set(elsewhere.connected()) == {node.node_id for node in three.nodes}
    query = pb.NodeRequest(exec=pb.ExecQuery(container_id=view.task.id, command=ECHO, stdin=True))
    async with elsewhere.open(view.task.node_id, query) as stream:
        started = await stream.receive()
        assert started is not None
        await stream.send(pb.StreamInput(data=b"through two"))
        heard = await stream.receive()
        assert heard is not None
        assert heard.stdout == b"through two"
        await stream.send(pb.StreamInput(end=True))
        exited = await stream.receive()
        assert exited is not None
        assert exited.HasField("exited")
        assert await stream.receive() is None
    missing = pb.NodeRequest(inspect=pb.InspectQuery(container_id="nothing"))
    with pytest.raises(NotFoundError, match="No such container: nothing"):
        await elsewhere.ask(view.task.node_id, missing)


async def test_only_managers_relay(three: Site) -> None:
    async with three.nodes[0].dial(f"127.0.0.1:{three.manager.control_port}") as channel:
        call: Any = rpc.NodeStreamsStub(channel).Relay(timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
