"""A connection to a port of a container, made from inside its network namespace, on a stream."""

from __future__ import annotations

import asyncio
import os

from minicommon.errors import UnavailableError
from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.health.probes import Sockets
from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told

BLOCK = 64 << 10
"""Bytes that are read at once."""

CONNECT_SECONDS = 10.0

_LOOPBACK = "127.0.0.1"


class Forwarding:
    """The handler of `forward`."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    async def forward(self, query: pb.ForwardQuery, inputs: Inputs) -> Outputs:
        with told():
            opened = await self._sockets.open_socket(query.container_id)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(opened, (_LOOPBACK, query.port))
        except OSError as error:  # a TimeoutError is one
            opened.close()
            reason = os.strerror(error.errno) if error.errno else "timed out"
            raise UnavailableError(
                f"port {query.port} of container {query.container_id}: {reason}"
            ) from error
        reader, writer = await asyncio.open_connection(sock=opened)
        feeding = asyncio.create_task(_feed(inputs, writer), name="forward input")
        try:
            yield pb.StreamOutput(started=pb.Done())
            while data := await _read(reader):
                yield pb.StreamOutput(data=data)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The next bytes; none at the end, or when the connection broke."""
    try:
        return await reader.read(BLOCK)
    except OSError:
        return b""


async def _feed(inputs: Inputs, writer: asyncio.StreamWriter) -> None:
    try:
        async for message in inputs:
            if message.HasField("data"):
                writer.write(message.data)
                await writer.drain()
            elif message.HasField("end"):
                writer.write_eof()
    except OSError:
        return  # it takes no more; what it still says is read
