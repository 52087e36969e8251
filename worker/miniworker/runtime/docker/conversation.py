"""Talking to programs in containers over connections that the Engine gives up to us: commands, and first processes.

A command does not outlive its conversation: the Engine has no word for that, so its process is killed. It has begun
when the Engine tells its pid; when the Engine says that it does not run and never had one, it could not be started.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from miniworker.runtime.api import Exit, RuntimeFaultError
from miniworker.runtime.docker import frames, read
from miniworker.runtime.docker.engine import Connection, Engine, EngineError
from miniworker.runtime.interactive import Command, Size
from miniworker.runtime.oci import cgroups, processes

logger = logging.getLogger(__name__)

_POLL_S = 0.01
"""Between two questions whether a command has begun, or ended; the Engine tells nobody by itself."""

_END_OF_INPUT = b"\x04"
"""Control-D, which a terminal turns into an end of file."""


class Background:
    """Requests that nobody waits for, each after the one before: sizes of terminals."""

    def __init__(self) -> None:
        self._last: asyncio.Task[None] | None = None

    def add(self, work: Coroutine[Any, Any, Any]) -> None:
        self._last = asyncio.create_task(self._after(self._last, work))

    @staticmethod
    async def _after(before: asyncio.Task[None] | None, work: Coroutine[Any, Any, Any]) -> None:
        if before is not None:
            await before
        try:
            await work
        except RuntimeFaultError as error:  # it has ended meanwhile
            logger.debug("A request about a program came too late.", extra={"error": str(error)})

    async def close(self) -> None:
        if self._last is not None:
            await self._last


class Streams:
    """What commands and first processes have in common."""

    def __init__(self, connection: Connection, *, tty: bool, stdin: bool) -> None:
        self._connection = connection
        self._tty = tty
        self._stdin = stdin

    async def read(self) -> tuple[str, bytes] | None:
        read_next = frames.read_raw if self._tty else frames.read_frame
        return await read_next(self._connection.reader)

    async def write(self, data: bytes) -> None:
        """Nothing where no input was asked for, and once the program reads no more."""
        if not self._stdin:
            return
        try:
            self._connection.writer.write(data)
            await self._connection.writer.drain()
        except OSError:
            self._stdin = False

    async def end_input(self) -> None:
        if self._tty:
            await self.write(_END_OF_INPUT)
        elif self._stdin:
            self._stdin = False
            self._connection.writer.write_eof()

    async def close(self) -> None:
        await self._connection.close()


class Talk:
    """Implements `Conversation` with a command. Make it with `talk`."""

    def __init__(self, engine: Engine, exec_id: str, streams: Streams, *, tty: bool) -> None:
        self._engine = engine
        self._id = exec_id
        self._streams = streams
        self._tty = tty
        self._background = Background()
        self._pid = 0
        self._group = ""
        self._code: int | None = None

    async def started(self) -> None:
        """Return once the command runs, or has run. Raises RuntimeFaultError when it cannot be started."""
        while True:
            told = await self._inspect()
            if told["Pid"]:
                self._pid = int(told["Pid"])
                self._group = await asyncio.to_thread(cgroups.group_of, self._pid)
                return
            if not told["Running"] and told["ExitCode"] is not None:
                said = b"".join([data async for data in self._everything()])
                raise RuntimeFaultError(
                    read.plain(said.decode(errors="replace")) or "the command cannot be started"
                )
            await asyncio.sleep(_POLL_S)

    async def _everything(self) -> Any:
        while (piece := await self._streams.read()) is not None:
            yield piece[1]

    async def read(self) -> tuple[str, bytes] | None:
        return await self._streams.read()

    async def write(self, data: bytes) -> None:
        await self._streams.write(data)

    async def end_input(self) -> None:
        await self._streams.end_input()

    def resize(self, size: Size) -> None:
        if self._tty:
            query = {"h": size.rows, "w": size.columns}
            self._background.add(self._engine.post(f"/exec/{self._id}/resize", query=query))

    def send_signal(self, number: int) -> None:
        if self._group:
            processes.send(self._pid, number, lambda: cgroups.group_of(self._pid) == self._group)

    async def wait(self) -> int:
        """Its end is seen by its process; the Engine has the code a little later."""
        if self._code is None:
            await self._process_ended()
            while (told := await self._inspect())["Running"]:  # noqa: ASYNC110  it is the Engine that knows
                await asyncio.sleep(_POLL_S)
            self._code = int(told["ExitCode"])
        return self._code

    async def _process_ended(self) -> None:
        if self._group:
            await processes.ended(self._pid, lambda: cgroups.group_of(self._pid) == self._group)

    async def close(self) -> None:
        """With its terminal it hangs up, which a shell passes on to its jobs."""
        await self._background.close()
        if self._code is None:
            if self._tty:
                self.send_signal(signal.SIGHUP)
            self.send_signal(signal.SIGKILL)
            await self._process_ended()
        await self._streams.close()

    async def _inspect(self) -> dict[str, Any]:
        told: dict[str, Any] = await self._engine.get(f"/exec/{self._id}/json")
        return told


async def talk(engine: Engine, container: str, command: Command) -> Talk:
    """Start the command. Raises RuntimeFaultError when it cannot be."""
    body = {
        "AttachStdin": command.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": command.tty,
        "Cmd": list(command.words),
        "Env": list(command.env),
        "User": command.user,
        "WorkingDir": command.dir,
    }
    try:
        exec_id = str((await engine.post(f"/containers/{container}/exec", body))["Id"])
        start = {"Detach": False, "Tty": command.tty}
        connection = await engine.take_over(f"/exec/{exec_id}/start", start)
    except EngineError as error:
        raise RuntimeFaultError(read.plain(str(error))) from None
    begun = Talk(
        engine,
        exec_id,
        Streams(connection, tty=command.tty, stdin=command.stdin),
        tty=command.tty,
    )
    try:
        await begun.started()
        if command.size is not None:
            begun.resize(command.size)
    except BaseException:
        await connection.close()
        raise
    return begun


class Attachment:
    """Implements `Conversation` with a container's first process."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        streams: Streams,
        *,
        tty: bool,
        ended: Callable[[], Awaitable[Exit]],
    ) -> None:
        self._engine = engine
        self._container = container
        self._streams = streams
        self._tty = tty
        self._ended = ended
        self._background = Background()

    async def read(self) -> tuple[str, bytes] | None:
        return await self._streams.read()

    async def write(self, data: bytes) -> None:
        await self._streams.write(data)

    async def end_input(self) -> None:
        await self._streams.end_input()

    def resize(self, size: Size) -> None:
        if self._tty:
            query = {"h": size.rows, "w": size.columns}
            self._background.add(self._engine.post(f"/containers/{self._container}/resize", query=query))

    def send_signal(self, number: int) -> None:
        self._background.add(
            self._engine.post(f"/containers/{self._container}/kill", query={"signal": number})
        )

    async def wait(self) -> int:
        return (await self._ended()).code

    async def close(self) -> None:
        await self._background.close()
        await self._streams.close()
