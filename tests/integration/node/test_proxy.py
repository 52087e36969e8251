"""Every kind of call through the daemon's socket: nothing of it is lost or added."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from miniworker.node import proxy
from miniworker.node.proxy import NO_ANSWER, ManagerProxy

METHOD = "/mini.v1.Services/"


class Upstream(grpc.GenericRpcHandler):
    """A manager that shows what it was given."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = str(handler_call_details.method).rpartition("/")[2]
        return grpc.stream_stream_rpc_method_handler(getattr(self, f"_{name}"))

    async def _Echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("began", "yes"),))
        async for request in requests:
            yield request
        context.set_trailing_metadata((("ended", "yes"),))

    async def _Metadata(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        given = dict(context.invocation_metadata())
        yield f"{given['who']} {given['raw-bin'].hex()} {context.time_remaining():.0f}".encode()

    async def _Fail(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x09"), ("why", "because")))
        await context.abort(grpc.StatusCode.ABORTED, "version 3 is not 4: ümlaut")

    async def _Hang(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.entered.set()
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            self.cancelled.set()


class Bench:
    def __init__(self, directory: Path) -> None:
        self.upstream = Upstream()
        self._manager = self._server(directory / "manager.sock", self.upstream)
        self.target: grpc.aio.Channel | str = self._channel(directory / "manager.sock")
        self._to_manager = self.target
        self._daemon = self._server(directory / "mini.sock", ManagerProxy(lambda: self.target))
        self.client: Any = self._channel(directory / "mini.sock")

    @staticmethod
    def _server(socket: Path, handler: grpc.GenericRpcHandler) -> grpc.aio.Server:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"unix:{socket}")
        return server

    @staticmethod
    def _channel(socket: Path) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{socket}")

    async def __aenter__(self) -> Bench:
        await self._manager.start()
        await self._daemon.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self._daemon.stop(None)
        assert isinstance(self._to_manager, grpc.aio.Channel)
        await self._to_manager.close()
        await self._manager.stop(None)

    async def stop_manager(self) -> None:
        await self._manager.stop(None)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(tmp_path) as bench:
        yield bench


async def test_unary(bench: Bench) -> None:
    call: Any = bench.client.unary_unary(METHOD + "Echo")(b"hello")
    assert await call == b"hello"
    assert ("began", "yes") in tuple(await call.initial_metadata())
    assert ("ended", "yes") in tuple(await call.trailing_metadata())


async def test_streams_both_ways(bench: Bench) -> None:
    call: Any = bench.client.stream_stream(METHOD + "Echo")()
    for number in range(3):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_large_message(bench: Bench) -> None:
    blob = bytes(3_000_000)
    assert await bench.client.unary_unary(METHOD + "Echo")(blob) == blob


async def test_metadata_and_deadline_go_through(bench: Bench) -> None:
    call: Any = bench.client.unary_unary(METHOD + "Metadata")(
        b"", metadata=(("who", "me"), ("raw-bin", b"\x00\xff")), timeout=60
    )
    assert await call == b"me 00ff 60"


async def test_a_status_goes_through_with_its_details(bench: Bench) -> None:
    call: Any = bench.client.unary_stream(METHOD + "Fail")(b"")
    assert await call.read() == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert caught.value.details() == "version 3 is not 4: ümlaut"
    trailing = dict(tuple(caught.value.trailing_metadata()))
    assert trailing["grpc-status-details-bin"] == b"\x08\x09"
    assert trailing["why"] == "because"


async def test_cancelling_reaches_the_manager(bench: Bench) -> None:
    call: Any = bench.client.unary_stream(METHOD + "Hang")(b"")
    await bench.upstream.entered.wait()
    call.cancel()
    await bench.upstream.cancelled.wait()


async def test_a_deadline_reaches_the_manager(bench: Bench) -> None:
    call: Any = bench.client.unary_stream(METHOD + "Hang")(b"", timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await bench.upstream.cancelled.wait()


@pytest.mark.parametrize("reason", [proxy.NOT_A_MANAGER, proxy.NOT_A_MEMBER])
async def test_without_a_manager_the_reason_is_told(bench: Bench, reason: str) -> None:
    bench.target = reason
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.client.unary_unary(METHOD + "Echo")(b"")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == reason


async def test_a_manager_that_is_gone_is_unavailable(bench: Bench) -> None:
    await bench.stop_manager()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.client.unary_unary(METHOD + "Echo")(b"")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == NO_ANSWER
