"""Questions to nodes: the manager asks over a node's session, the node opens a stream for the answer.

The id of a stream is the proof that it was asked for: it is random, it goes to one node only, and it counts once. What
arrives waits here only a few messages deep; after that the node waits, and so does what it reads from.

A node whose session another manager holds is asked through that one, which relays the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from grpc import aio
from minicommon.errors import (
    DeadlineError,
    InvalidArgumentError,
    MiniError,
    PermissionDeniedError,
    UnavailableError,
)
from minicommon.ids import new_id
from minicommon.log import fields
from minicommon.rpc.errors import error_of
from minicommon.rpc.gate import identity
from miniproto.v1 import streams_pb2 as pb
from miniproto.v1 import streams_pb2_grpc

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Outputs = AsyncIterator[pb.StreamOutput]
Ask = Callable[[pb.Dial], None]
"""Tells a node over its session."""

ANSWER_SECONDS = 10.0
"""How long a node that has a session may take to open the stream."""

DEPTH = 4
"""Messages that wait for whoever reads the answer."""


class NodeStream:
    """A node's answer. Made by `NodeStreams`."""

    def __init__(
        self, name: str, outputs: Outputs, write: Callable[[pb.StreamInput], Awaitable[None]]
    ) -> None:
        self.closed = asyncio.Event()
        self._name = name
        self._outputs = outputs
        self._write = write
        self._arrived: asyncio.Queue[pb.StreamOutput | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(DEPTH)
        self._complete = False

    async def serve(self) -> None:
        """Take in what the node says, until it has said all or nobody listens any more."""
        pump = asyncio.ensure_future(self._pump())
        over = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({pump, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pump.cancel()
            over.cancel()
            await asyncio.gather(pump, over, return_exceptions=True)
            self._arrived.put_nowait(None)

    async def _pump(self) -> None:
        async for output in self._outputs:
            await self._room.acquire()
            self._arrived.put_nowait(output)

    async def receive(self) -> pb.StreamOutput | None:
        """The next message; None at the end.

        Raises the node's error as it was there, and UnavailableError when the node went away.
        """
        if self._complete:
            return None
        output = await self._arrived.get()
        if output is None:
            self._arrived.put_nowait(None)
            raise UnavailableError(f"node {self._name} went away")
        self._room.release()
        if output.HasField("done"):
            self._complete = True
            return None
        if output.HasField("failure"):
            raise error_of(output.failure.code, output.failure.message)
        return output

    async def __aiter__(self) -> Outputs:
        while (output := await self.receive()) is not None:
            yield output

    async def send(self, message: pb.StreamInput) -> None:
        """Returns when it is on its way; nothing when the node listens no more."""
        with suppress(aio.UsageError, aio.InternalError, grpc.RpcError, asyncio.InvalidStateError):
            await self._write(message)


class Peers(Protocol):
    """The other managers."""

    def nodes(self) -> list[str]:
        """The nodes whose sessions they hold."""

    def address(self, node_id: str) -> str:
        """host:port of the manager that holds the node's session; empty: none of them does."""

    def dial(self, address: str) -> aio.Channel:
        """A channel with this manager's certificate."""


@asynccontextmanager
async def fed(stream: NodeStream, inputs: AsyncIterator[pb.StreamInput]) -> AsyncIterator[None]:
    """Meanwhile what comes in is sent to the node. An end without `end` is nobody's end of input."""

    async def forward() -> None:
        async for message in inputs:
            await stream.send(message)

    task = asyncio.create_task(forward(), name="forward input")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _relayed_outputs(call: Any) -> AsyncIterator[pb.StreamOutput]:
    """What the other manager passes on; its error as a failure of the stream."""
    try:
        async for output in call:
            yield output
    except aio.AioRpcError as error:
        failure = pb.StreamFailure(code=error.code().name, message=error.details() or "")
        yield pb.StreamOutput(failure=failure)


@dataclass(slots=True)
class _Waiting:
    node_id: str
    arrived: asyncio.Future[NodeStream] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class NodeStreams(streams_pb2_grpc.NodeStreamsServicer):
    """`name_of` gives a node's host name for messages, `peers` the managers that hold the sessions of other nodes."""

    def __init__(self, name_of: Callable[[str], str], peers: Peers) -> None:
        self._name_of = name_of
        self._peers = peers
        self._sessions: dict[str, Ask] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._watchers: set[Callable[[], None]] = set()

    @contextmanager
    def watched(self, notify: Callable[[], None]) -> Iterator[None]:
        """While inside, `notify` is called when a node comes or goes."""
        self._watchers.add(notify)
        try:
            yield
        finally:
            self._watchers.discard(notify)

    @contextmanager
    def reachable(self, node_id: str, ask: Ask) -> Iterator[None]:
        """While inside, the node is asked by `ask`."""
        self._sessions[node_id] = ask
        self._notify()
        try:
            yield
        finally:
            if self._sessions.get(node_id) is ask:
                del self._sessions[node_id]
                self._lose(node_id)
                self._notify()

    def connected(self) -> list[str]:
        """The nodes that can be asked, here or through another manager."""
        return [
            *self._sessions,
            *(node_id for node_id in self._peers.nodes() if node_id not in self._sessions),
        ]

    @asynccontextmanager
    async def open(self, node_id: str, request: pb.NodeRequest) -> AsyncIterator[NodeStream]:
        """Ask the node, and give its answer.

        Raises UnavailableError or DeadlineError for a node that cannot be asked or does not answer.
        """
        if node_id not in self._sessions and (address := self._peers.address(node_id)):
            async with self._relayed(address, node_id, request) as stream:
                yield stream
            return
        stream = await self._dial(node_id, request)
        try:
            yield stream
        finally:
            stream.closed.set()

    @asynccontextmanager
    async def _relayed(
        self, address: str, node_id: str, request: pb.NodeRequest
    ) -> AsyncIterator[NodeStream]:
        async with self._peers.dial(address) as channel:
            call: Any = streams_pb2_grpc.NodeStreamsStub(channel).Relay()
            await call.write(pb.RelayInput(start=pb.RelayStart(node_id=node_id, request=request)))
            stream = NodeStream(
                self._name_of(node_id),
                _relayed_outputs(call),
                lambda message: call.write(pb.RelayInput(input=message)),
            )
            serving = asyncio.create_task(stream.serve(), name="relayed stream")
            try:
                yield stream
            finally:
                stream.closed.set()
                await serving
                call.cancel()

    async def ask(self, node_id: str, request: pb.NodeRequest) -> pb.StreamOutput:
        """The one message of an answer that has no more."""
        async with self.open(node_id, request) as stream:
            output = await stream.receive()
        if output is None:
            raise MiniError(f"node {self._name_of(node_id)} answered nothing")
        return output

    async def Open(  # type: ignore[override]  # the reader-writer form of a streaming handler
        self, request_iterator: Outputs, context: Context
    ) -> None:
        node_id = identity(context).node_id
        await context.send_initial_metadata(())  # a first message under way could not be overtaken by the end
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("stream_id"):
            raise InvalidArgumentError("output: the first message must be stream_id")
        waiting = self._waiting.get(first.stream_id)
        if waiting is None or waiting.node_id != node_id or waiting.arrived.done():
            logger.warning("A node opened a stream that it was not asked for.", extra=fields(node_id=node_id))
            raise PermissionDeniedError(
                "stream_id: this manager has not given it to this node, or no longer waits"
            )
        stream = NodeStream(self._name_of(node_id), request_iterator, context.write)
        waiting.arrived.set_result(stream)
        await stream.serve()

    async def Relay(
        self, request_iterator: AsyncIterator[pb.RelayInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        """For another manager: only of nodes whose session is here, so that no question goes in circles."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("start"):
            raise InvalidArgumentError("message: the first one must be start")
        stream = await self._dial(first.start.node_id, first.start.request)
        try:
            async with fed(stream, (message.input async for message in request_iterator)):
                async for output in stream:
                    yield output
            yield pb.StreamOutput(done=pb.Done())
        finally:
            stream.closed.set()

    async def _dial(self, node_id: str, request: pb.NodeRequest) -> NodeStream:
        ask = self._sessions.get(node_id)
        if ask is None:
            raise UnavailableError(f"node {self._name_of(node_id)} is not connected to this manager")
        stream_id, waiting = new_id(), _Waiting(node_id)
        self._waiting[stream_id] = waiting
        try:
            ask(pb.Dial(stream_id=stream_id, request=request))
            async with asyncio.timeout(ANSWER_SECONDS):
                return await waiting.arrived
        except TimeoutError:
            raise DeadlineError(
                f"node {self._name_of(node_id)} did not answer within {ANSWER_SECONDS:g} s"
            ) from None
        finally:
            del self._waiting[stream_id]

    def _notify(self) -> None:
        for notify in tuple(self._watchers):
            notify()

    def _lose(self, node_id: str) -> None:
        for waiting in self._waiting.values():
            if waiting.node_id == node_id and not waiting.arrived.done():
                waiting.arrived.set_exception(UnavailableError(f"node {self._name_of(node_id)} went away"))
