"""Opening the streams that a manager asks for, on a connection of their own that closes with the last of them.

The session's connection is left alone: much output must not delay a heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
from minicommon.errors import InvalidArgumentError, MiniError
from minicommon.log import fields
from minicommon.rpc.errors import code_of, details_of
from miniproto.v1 import streams_pb2 as pb
from miniproto.v1 import streams_pb2_grpc as rpc

from miniworker.agent.streams.api import Handlers, Inputs

logger = logging.getLogger(__name__)

Dial = Callable[[str], grpc.aio.Channel]
Call = grpc.aio.StreamStreamCall[pb.StreamOutput, pb.StreamInput]


class StreamServer:
    """Serves until `close`."""

    def __init__(self, handlers: Handlers, dial: Dial) -> None:
        self._handlers = handlers
        self._dial = dial
        self._channels: dict[str, tuple[grpc.aio.Channel, int]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def open(self, manager: str, dial: pb.Dial) -> None:
        """The manager at this address asks for a stream."""
        task = asyncio.create_task(self._serve(manager, dial), name=f"stream {dial.stream_id}")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """End every stream."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, manager: str, dial: pb.Dial) -> None:
        try:
            async with self._channel(manager) as channel:
                call: Call = rpc.NodeStreamsStub(channel).Open()
                try:
                    await self._answer(call, dial)
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            logger.debug("A stream broke.", extra=fields(manager=manager, error=error.details()))
        except (asyncio.InvalidStateError, MiniError) as error:
            logger.debug("A stream broke.", extra=fields(manager=manager, error=error))
        except Exception as error:
            logger.error("Internal error in a stream.", extra=fields(manager=manager), exc_info=error)

    async def _answer(self, call: Call, dial: pb.Dial) -> None:
        """Write what the handler gives, until it is done or the manager has closed the stream."""
        await call.write(pb.StreamOutput(stream_id=dial.stream_id))
        inputs = Inputs()
        over = asyncio.Event()
        call.add_done_callback(lambda _: over.set())
        reading = asyncio.create_task(_read(call, inputs))
        writing = asyncio.create_task(self._write(call, dial.request, inputs))
        closed = asyncio.create_task(over.wait())
        try:
            await asyncio.wait({writing, closed}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                await writing
                await call.done_writing()
                await closed  # the manager has taken all of it
        finally:
            for task in (reading, writing, closed):
                task.cancel()
            await asyncio.gather(reading, writing, closed, return_exceptions=True)

    async def _write(self, call: Call, request: pb.NodeRequest, inputs: Inputs) -> None:
        kind = request.WhichOneof("request")
        handler = self._handlers.get(kind or "")
        try:
            if handler is None or kind is None:
                raise InvalidArgumentError(f"request: this node's version does not know {kind or 'this one'}")
            outputs: Any = handler(getattr(request, kind), inputs)
            async with aclosing(outputs):
                async for output in outputs:
                    await call.write(output)
            await call.write(pb.StreamOutput(done=pb.Done()))
        except MiniError as error:
            failure = pb.StreamFailure(code=code_of(error).name, message=details_of(error))
            await call.write(pb.StreamOutput(failure=failure))

    @asynccontextmanager
    async def _channel(self, manager: str) -> AsyncIterator[grpc.aio.Channel]:
        """One connection for all streams to a manager."""
        channel, users = self._channels.get(manager) or (self._dial(manager), 0)
        self._channels[manager] = (channel, users + 1)
        try:
            yield channel
        finally:
            channel, users = self._channels.pop(manager)
            if users > 1:
                self._channels[manager] = (channel, users - 1)
            else:
                await channel.close()


async def _read(call: Call, inputs: Inputs) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            message: Any = await call.read()
            if message is grpc.aio.EOF:
                break
            await inputs.put(message)
    inputs.end()
