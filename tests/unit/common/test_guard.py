"""The guard over real gRPC on a unix socket: errors both ways, deadlines, streams, the audit record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from minicommon import errors
from minicommon.errors import (
    DeadlineError,
    InvalidArgumentError,
    MiniError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from minicommon.identity.names import Caller
from minicommon.identity.peer import Identity
from minicommon.rpc.channel import unix_channel
from minicommon.rpc.errors import CODES, MAX_DETAILS_BYTES, code_of, from_rpc, ours
from minicommon.rpc.gate import AnyoneGate, Context, Gate, LocalGate
from minicommon.rpc.guard import Guard
from minicommon.rpc.limits import CallLimits
from minicommon.rpc.server import listen_unix, local_server, new_server
from miniproto.v1 import control_pb2, control_pb2_grpc, node_pb2, node_pb2_grpc

CANARY = "canary-in-the-payload"


class Behavior(control_pb2_grpc.ServicesServicer, control_pb2_grpc.TasksServicer):  # type: ignore[misc]
    """Does what the request's `ref` says."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.hanging = asyncio.Event()
        self.raising: Exception = MiniError("unset")

    async def Get(self, request: control_pb2.GetRequest, context: Any) -> Any:
        if request.ref == "raise":
            raise self.raising
        if request.ref == "hang":
            await asyncio.Event().wait()
        if request.ref == "own abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by itself")
        return control_pb2.ServiceView(running=1)

    async def WatchService(
        self, request: control_pb2.WatchServiceRequest, context: Any
    ) -> AsyncIterator[control_pb2.ServiceProgress]:
        try:
            yield control_pb2.ServiceProgress(revision=1)
            if request.ref == "raise":
                raise self.raising
            if request.ref == "hang":
                self.hanging.set()
                await asyncio.Event().wait()
            yield control_pb2.ServiceProgress(revision=2)
        finally:
            self.closed.set()


class Upload(node_pb2_grpc.ImagesServicer):
    async def Load(self, request_iterator: AsyncIterator[node_pb2.LoadImageChunk], context: Any) -> Any:
        size = 0
        async for chunk in request_iterator:
            size += len(chunk.data)
            if size > 10:
                raise InvalidArgumentError("too much")
        return node_pb2.LoadImageResponse(loaded=[str(size)])


@pytest.fixture
def behavior() -> Behavior:
    return Behavior()  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED


async def _serve(server: grpc.aio.Server, behavior: Behavior, socket: Path) -> None:
    control_pb2_grpc.add_ServicesServicer_to_server(behavior, server)
    control_pb2_grpc.add_TasksServicer_to_server(behavior, server)
    node_pb2_grpc.add_ImagesServicer_to_server(Upload(), server)  # type: ignore[abstract]
    listen_unix(server, socket)
    await server.start()


@pytest.fixture
async def channel(behavior: Behavior, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = new_server(Guard(LocalGate(), unary_seconds=0.2))
    await _serve(server, behavior, tmp_path / "s")
    async with unix_channel(tmp_path / "s") as opened:
        yield opened
    await server.stop(None)


async def _get(channel: grpc.aio.Channel, ref: str, timeout: float | None = None) -> Any:
    with ours():
        return await control_pb2_grpc.ServicesStub(channel).Get(
            control_pb2.GetRequest(ref=ref), timeout=timeout
        )


@pytest.mark.parametrize("cls", list(CODES))
async def test_an_error_arrives_as_it_was_raised(
    channel: grpc.aio.Channel, behavior: Behavior, cls: type[MiniError]
) -> None:
    behavior.raising = cls("replicas: must be at least 0, got -1 (größer)")
    with pytest.raises(cls) as caught:
        await _get(channel, "raise")
    assert type(caught.value) is cls
    assert caught.value.message == "replicas: must be at least 0, got -1 (größer)"


def test_every_error_class_has_a_code_of_its_own() -> None:
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MiniError)}
    assert classes - {MiniError} == set(CODES)
    assert len(set(CODES.values())) == len(CODES)


def test_a_subclass_has_the_code_of_its_class() -> None:
    class SpecialError(InvalidArgumentError):
        pass

    assert code_of(SpecialError("x")) is grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(MiniError("x")) is grpc.StatusCode.INTERNAL


async def test_a_very_long_message_is_shortened_and_still_arrives(
    channel: grpc.aio.Channel, behavior: Behavior
) -> None:
    behavior.raising = InvalidArgumentError("é" * 100_000)
    with pytest.raises(InvalidArgumentError) as caught:
        await _get(channel, "raise")
    assert caught.value.message == "é" * (MAX_DETAILS_BYTES // 6) + "..."


async def test_an_error_of_the_program_tells_the_caller_a_reference_only(
    channel: grpc.aio.Channel, behavior: Behavior, caplog: pytest.LogCaptureFixture
) -> None:
    behavior.raising = RuntimeError("the inner workings")
    with pytest.raises(MiniError, match=r"^internal error \(reference [0-9a-z]{12}\)$") as caught:
        await _get(channel, "raise")
    record = next(each for each in caplog.records if each.getMessage() == "Internal error in a call.")
    reference: Any = vars(record)["reference"]
    assert reference in caught.value.message
    assert record.exc_info is not None
    assert record.exc_info[1] is behavior.raising


async def test_a_call_that_takes_too_long_is_ended(channel: grpc.aio.Channel) -> None:
    with pytest.raises(DeadlineError, match=r"/mini.v1.Services/Get: not done within the 0.2 s it had"):
        await _get(channel, "hang")


async def test_the_callers_own_deadline_holds(channel: grpc.aio.Channel) -> None:
    with pytest.raises(DeadlineError):
        await _get(channel, "hang", timeout=0.05)


async def test_a_handlers_own_timeout_is_not_taken_for_the_deadline(
    channel: grpc.aio.Channel, behavior: Behavior
) -> None:
    behavior.raising = TimeoutError()
    with pytest.raises(MiniError, match="internal error"):
        await _get(channel, "raise")


async def test_a_status_that_a_handler_sets_itself_stays(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await control_pb2_grpc.ServicesStub(channel).Get(control_pb2.GetRequest(ref="own abort"))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert from_rpc(caught.value).message == "by itself"


async def test_a_stream_passes_and_ends(channel: grpc.aio.Channel) -> None:
    call = control_pb2_grpc.TasksStub(channel).WatchService(control_pb2.WatchServiceRequest())
    assert [message.revision async for message in call] == [1, 2]


async def test_an_error_in_a_stream_arrives_after_what_was_sent(
    channel: grpc.aio.Channel, behavior: Behavior
) -> None:
    behavior.raising = InvalidArgumentError("no more")
    call = control_pb2_grpc.TasksStub(channel).WatchService(control_pb2.WatchServiceRequest(ref="raise"))
    seen: list[int] = []

    async def read() -> None:
        with ours():
            async for message in call:
                seen.append(message.revision)  # noqa: PERF401  what came before the error counts

    with pytest.raises(InvalidArgumentError, match="no more"):
        await read()
    assert seen == [1]


async def test_a_stream_that_the_caller_cancels_is_closed_inside(
    channel: grpc.aio.Channel, behavior: Behavior
) -> None:
    call = control_pb2_grpc.TasksStub(channel).WatchService(control_pb2.WatchServiceRequest(ref="hang"))
    await behavior.hanging.wait()
    call.cancel()
    await behavior.closed.wait()


async def test_a_stream_of_requests_is_guarded_too(channel: grpc.aio.Channel) -> None:
    stub = node_pb2_grpc.ImagesStub(channel)
    assert (await stub.Load(iter([node_pb2.LoadImageChunk(data=b"abc")]))).loaded == ["3"]
    with pytest.raises(InvalidArgumentError, match="too much"), ours():
        await stub.Load(iter([node_pb2.LoadImageChunk(data=b"x" * 11)]))


async def test_every_change_leaves_a_record_without_what_was_sent(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "minicommon.rpc.guard")
    stub = node_pb2_grpc.ImagesStub(channel)
    await stub.Load(iter([node_pb2.LoadImageChunk(data=CANARY[:9].encode())]))
    with pytest.raises(InvalidArgumentError), ours():
        await stub.Load(iter([node_pb2.LoadImageChunk(data=CANARY.encode())]))
    found = [
        (vars(record)["method"], vars(record)["caller"], vars(record)["result"])
        for record in caplog.records
        if record.getMessage() == "Call done."
    ]
    assert found == [
        ("/mini.v1.Images/Load", "local", "OK"),
        ("/mini.v1.Images/Load", "local", "INVALID_ARGUMENT"),
    ]
    assert CANARY[:9] not in str([vars(record) for record in caplog.records])


async def test_reads_are_not_in_everybodys_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "minicommon.rpc.guard")
    await _get(channel, "")
    assert not caplog.records


async def test_whom_the_gate_calls_anyone_reaches_nothing_of_the_control_api(
    behavior: Behavior, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server(Guard(AnyoneGate()))
    await _serve(server, behavior, tmp_path / "s")
    async with unix_channel(tmp_path / "s") as opened:
        with pytest.raises(PermissionDeniedError, match="the caller is anyone"):
            await _get(opened, "")
    await server.stop(None)
    refusal = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert vars(refusal)["result"] == "PERMISSION_DENIED"


class NamedGate:
    """Everybody is the same viewer."""

    def identify(self, context: Context) -> Identity:
        return Identity(Caller.VIEWER, "ci")


@pytest.mark.parametrize(("gate", "answered"), [(NamedGate(), 2), (LocalGate(), 5)])
async def test_a_client_that_calls_too_often_is_refused_and_root_is_not(
    behavior: Behavior, tmp_path: Path, gate: Gate, answered: int
) -> None:
    server = new_server(Guard(gate, limits=CallLimits(per_second=1, burst=2)))
    await _serve(server, behavior, tmp_path / "s")
    async with unix_channel(tmp_path / "s") as opened:
        outcomes = await asyncio.gather(*(_get(opened, "") for _ in range(5)), return_exceptions=True)
    await server.stop(None)
    refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhaustedError)]
    assert len(outcomes) - len(refused) == answered
    assert all(error.message.startswith("viewer ci calls too often: ") for error in refused)


async def test_the_local_socket_is_roots_and_replaces_a_dead_one(behavior: Behavior, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    socket.touch()
    server = local_server()
    await _serve(server, behavior, socket)
    assert socket.stat().st_mode & 0o777 == 0o600
    async with unix_channel(socket) as opened:
        assert (await _get(opened, "")).running == 1
    await server.stop(None)
