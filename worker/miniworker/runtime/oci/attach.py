"""Talking to a container's first process: its output is read from the log, its input goes through conmon's socket.

The log is read at the reader's own pace, so one who does not read holds up nobody, and nothing that was written before
somebody came is lost. conmon closes the process's standard input when whoever is attached to it goes, unless that is a
terminal.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress

from miniworker.runtime.api import Exit, LogLine, RuntimeFaultError
from miniworker.runtime.interactive import Size
from miniworker.runtime.oci.records import ContainerFiles

_PACKET = 8 << 10
"""Bytes: conmon takes packets of at most 32 KiB."""

_END_OF_INPUT = b"\x04"
"""Control-D, which a terminal turns into an end of file."""


def connect(files: ContainerFiles, container_id: str) -> socket.socket:
    """conmon's socket. Raises RuntimeFaultError."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.setblocking(False)
    folder = os.open(files.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        client.connect(
            f"/proc/self/fd/{folder}/{files.attach.name}"
        )  # the path itself may be too long for an address
    except OSError as error:
        client.close()
        raise RuntimeFaultError(
            f"cannot attach to the standard input of container {container_id}: {error.strerror}"
        ) from error
    finally:
        os.close(folder)
    return client


class Attachment:
    """Implements `Conversation`. `connection` is None when no input is wanted."""

    def __init__(
        self,
        batches: AsyncIterator[tuple[LogLine, ...]],
        *,
        files: ContainerFiles,
        connection: socket.socket | None,
        tty: bool,
        ended: Callable[[], Awaitable[Exit]],
        send: Callable[[int], None],
    ) -> None:
        self._batches = batches
        self._files = files
        self._connection = connection
        self._tty = tty
        self._ended = ended
        self._send = send
        self._pending: deque[tuple[str, bytes]] = deque()

    async def read(self) -> tuple[str, bytes] | None:
        while not self._pending:
            batch = await anext(self._batches, None)
            if batch is None:
                return None
            self._pending.extend(joined(batch))
        return self._pending.popleft()

    async def write(self, data: bytes) -> None:
        connection = self._connection
        for start in range(0, len(data), _PACKET):
            if connection is None:
                return
            try:
                await asyncio.get_running_loop().sock_sendall(connection, data[start : start + _PACKET])
            except OSError:
                return  # it has ended

    async def end_input(self) -> None:
        if self._connection is None:
            return
        if self._tty:
            await self.write(_END_OF_INPUT)
            return
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def resize(self, size: Size) -> None:
        if not self._tty:
            return
        try:
            control = os.open(self._files.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it has ended, or was never started
        try:
            os.write(control, f"1 {size.rows} {size.columns}\n".encode())
        finally:
            os.close(control)

    def send_signal(self, number: int) -> None:
        self._send(number)

    async def wait(self) -> int:
        return (await self._ended()).code

    async def close(self) -> None:
        if isinstance(self._batches, AsyncGenerator):
            async with aclosing(self._batches):
                pass
        if self._connection is not None:
            self._connection.close()


def joined(lines: Iterable[LogLine]) -> list[tuple[str, bytes]]:
    """The bytes as they were written; what goes to the same stream in one piece."""
    found: list[tuple[str, list[bytes]]] = []
    for line in lines:
        if not found or found[-1][0] != line.stream:
            found.append((line.stream, []))
        found[-1][1].append(line.data if line.partial else line.data + b"\n")
    return [(stream, b"".join(parts)) for stream, parts in found]
