"""Commands in containers, and their first processes, on a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told
from miniworker.runtime.api import Container, ContainerStatus, NoSuchContainerError, Runtime
from miniworker.runtime.interactive import Command, Conversation, Size


class Talking:
    """The handlers of `exec` and `attach`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._detached: set[asyncio.Task[None]] = set()

    async def exec(self, query: pb.ExecQuery, inputs: Inputs) -> Outputs:
        command = Command(
            tuple(query.command),
            user=query.user,
            dir=query.dir,
            env=tuple(query.env),
            tty=query.tty,
            stdin=query.stdin and not query.detach,
            size=_size(query.size) if query.HasField("size") else None,
        )
        with told("OCI runtime exec failed: "):
            conversation = await self._runtime.talk(query.container_id, command)
        if query.detach:
            self._leave(conversation)
            yield pb.StreamOutput(started=pb.Done())
            return
        async for output in _converse(conversation, inputs, stdin=query.stdin):
            yield output

    async def attach(self, query: pb.AttachQuery, inputs: Inputs) -> Outputs:
        with told():
            container = await self._container(query.container_id)
            stdin = query.stdin and container.status is ContainerStatus.RUNNING
            conversation = await self._runtime.attach(
                query.container_id, stdin=stdin, from_start=query.from_start
            )
        if query.HasField("size"):
            conversation.resize(_size(query.size))
        async for output in _converse(conversation, inputs, stdin=stdin, silent=query.no_output):
            yield output

    async def _container(self, container_id: str) -> Container:
        for container in await self._runtime.list():
            if container.id == container_id:
                return container
        raise NoSuchContainerError(f"No such container: {container_id}")

    def _leave(self, conversation: Conversation) -> None:
        """Nobody listens; it goes on until it ends by itself."""

        async def drain() -> None:
            try:
                while await conversation.read() is not None:
                    pass
                await conversation.wait()
            finally:
                await conversation.close()

        task = asyncio.create_task(drain(), name="detached command")
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)


async def _converse(
    conversation: Conversation, inputs: Inputs, *, stdin: bool, silent: bool = False
) -> AsyncIterator[pb.StreamOutput]:
    try:
        async with _fed(conversation, inputs, stdin=stdin):
            yield pb.StreamOutput(started=pb.Done())
            while (piece := await conversation.read()) is not None:
                stream, data = piece
                if not silent:
                    yield pb.StreamOutput(stderr=data) if stream == "stderr" else pb.StreamOutput(stdout=data)
            yield pb.StreamOutput(exited=pb.Exited(code=await conversation.wait()))
    finally:
        await conversation.close()


@asynccontextmanager
async def _fed(conversation: Conversation, inputs: Inputs, *, stdin: bool) -> AsyncIterator[None]:
    """Meanwhile what comes in is passed on."""

    async def feed() -> None:
        async for message in inputs:
            if message.HasField("data"):
                if stdin:
                    await conversation.write(message.data)
            elif message.HasField("end"):
                if stdin:
                    await conversation.end_input()
            elif message.HasField("resize"):
                conversation.resize(_size(message.resize))
            elif message.HasField("signal"):
                conversation.send_signal(message.signal)

    task = asyncio.create_task(feed(), name="stream input")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _size(size: pb.TerminalSize) -> Size:
    """Within what a terminal can have."""
    return Size(min(size.rows, 0xFFFF), min(size.columns, 0xFFFF))
