"""What nobody should send: to methods, to ports, to a DNS server; and what must not come of it."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

MESSAGES = int(os.environ.get("MINI_TEST_FUZZ", "1000"))
"""Of each caller and to each port; 100,000 in a full run."""

MOST_GROWTH_BYTES = 48 * 1024 * 1024
"""Of a process's memory over a run: caches fill at its beginning, but nothing is kept of each message."""

INTERNALS = re.compile(
    r"Traceback|site-packages|\.py\b|google\.protobuf|<class|minimanager|minicommon|miniworker|0x[0-9a-f]{6}"
)

_STRANGER = " is not connected to this manager"
"""What a manager says with UNAVAILABLE of a node that it does not know, here an invented one: right, and no fault."""

PATIENCE = 30.0

AT_ONCE = 16


def resident_bytes(pid: int) -> int:
    """How much memory a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def call(channel: grpc.aio.Channel, path: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    """What comes of one message to a method, sent as it is."""
    open_call: Any = channel.stream_stream(path)

    async def one() -> AsyncIterator[bytes]:
        yield data

    stream = open_call(one(), timeout=PATIENCE)
    try:
        async for _ in stream:
            break
        else:
            return await stream.code(), await stream.details()
        return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    finally:
        stream.cancel()


class Rubbish:
    """Requests that nobody should send: random bytes, and filled-in requests with some of their bytes changed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def request(self, method: MethodDescriptor) -> bytes:
        random = self._random
        if random.random() < 0.3:
            return random.randbytes(random.randrange(200))
        message: Message = message_factory.GetMessageClass(method.input_type)()
        self._fill(message, 0)
        data = bytearray(message.SerializeToString())
        for _ in range(random.randrange(4)):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
        return bytes(data)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.4 or field.has_options:
                continue
            if field.message_type is not None:
                if field.message_type.GetOptions().map_entry or depth > 4:
                    continue
                inner = getattr(message, field.name)
                self._fill(inner.add() if field.is_repeated else inner, depth + 1)
            elif field.is_repeated:
                getattr(message, field.name).append(self._scalar(field))
            else:
                setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: Any) -> object:
        random = self._random
        if field.name in ("min_revision", "version"):
            return random.randrange(3)  # a large one makes a call wait for it, as it should
        if field.type == FieldDescriptor.TYPE_STRING:
            return "".join(
                chr(random.choice((9, 47, 97, 233, 0x4E2D, 0x1F600))) for _ in range(random.randrange(40))
            )
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.randrange(60))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return random.random() < 0.5
        if field.enum_type is not None:
            return random.choice((0, 1, 2, 99))
        signed = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32)
        bits = 31 if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else 63
        value = random.choice((0, 1, 7, 1 << 20, (1 << bits) - 1))
        return -value if signed and random.random() < 0.3 else value


async def bombard(
    channel: grpc.aio.Channel,
    methods: Mapping[str, MethodDescriptor],
    count: int,
    seed: int,
) -> dict[grpc.StatusCode, str]:
    """Send `count` messages, several at a time; the codes that came of them, each with a method that gave it."""
    rubbish, codes, paths = Rubbish(seed), dict[grpc.StatusCode, str](), list(methods)
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            path = paths[number % len(paths)]
            code, details = await call(channel, path, rubbish.request(methods[path]))
            assert not INTERNALS.search(details), (path, details)
            if not details.endswith(_STRANGER):
                codes[code] = f"{path}: {details}"

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(sender())
    return codes


# --- below gRPC ---

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def noise(random: Random) -> bytes:
    """Bytes at random, or frames of HTTP/2 whose kinds, flags, streams and contents are."""
    if random.random() < 0.4:
        return random.randbytes(random.randrange(1, 300))
    frames = []
    for _ in range(random.randrange(1, 6)):
        data = random.randbytes(random.randrange(60))
        claimed = len(data) if random.random() < 0.8 else random.randrange(1 << 24)
        kind, flags = random.randrange(12), random.randrange(256)
        stream = random.choice((0, 1, 3, 2**31 - 1, random.randrange(2**32)))
        frames.append(claimed.to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + data)
    return _PREFACE + b"".join(frames)


async def pelt(port: int, count: int, seed: int) -> None:
    """Make `count` connections with such bytes, a third of them inside of TLS without a certificate."""
    random = Random(seed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            await _throw(port, context if number % 3 == 0 else None, noise(random))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(sender())


async def _throw(port: int, context: ssl.SSLContext | None, data: bytes) -> None:
    """One connection; the other side may end it when it likes. Raises TimeoutError when it does not."""
    async with asyncio.timeout(PATIENCE):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except (ConnectionError, ssl.SSLError):
            return
        try:
            writer.write(data)
            if context is None:
                writer.write_eof()
                await reader.read()
            else:
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            return
        finally:
            writer.transport.abort()
