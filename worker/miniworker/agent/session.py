"""The agent's side of the stream to a manager: open it, keep it, open it again.

Any manager will do. After a failure the next try goes to another one, if there is one, after a pause that doubles from
100 ms to 3 s and is drawn at random below that, so that a thousand nodes do not return at once.

The manager answers heartbeats. A node that hears nothing for three periods gives the session up and dials another
manager: of a cut in one direction, or of a host that went without a word, only it may know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import grpc
from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import DeadlineError, UnavailableError
from minicommon.log import fields
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import dispatcher_pb2_grpc as rpc
from miniproto.v1 import streams_pb2 as streams

from miniworker.agent.reporter import Reporter
from miniworker.agent.waiting import sleep_unless

logger = logging.getLogger(__name__)

FIRST_RETRY_NS = 100 * MILLISECOND
LONGEST_RETRY_NS = 3 * SECOND
"""SwarmKit's is 8 s (`agent/session.go`); a node whose managers are back should not stand without one for longer."""

WELCOME_NS = 5 * SECOND
"""How long a manager may take to be reached and to say Welcome (SwarmKit's limit of an agent's RPC)."""

MISSED_ANSWERS = 3
"""Heartbeats that may stay unanswered before the manager counts as lost, as many as the manager lets a node miss."""

FAREWELL_NS = SECOND // 2
"""How long an agent that ends waits for its goodbye to have left, and again for the answer."""

Dial = Callable[[str], grpc.aio.Channel]
"""A channel to the control API at host:port."""

T = TypeVar("T")
Call = grpc.aio.StreamStreamCall[dispatch.WorkerMessage, dispatch.ManagerMessage]


class SessionSink(Protocol):
    """Who takes what the manager says."""

    def hello(self) -> dispatch.Hello:
        """What to say first."""

    def welcome(self, welcome: dispatch.Welcome) -> None:
        """A session is open."""

    def trust(self, trust: dispatch.Trust) -> None:
        """What roots the cluster trusts, and whose certificates it wants."""

    def assignments(self, message: dispatch.Assignments) -> None:
        """The set or a change of it; first a complete one in each session."""

    def dial(self, manager: str, dial: streams.Dial) -> None:
        """The manager at this address asks for a stream."""

    def lost(self) -> None:
        """The session has ended, or could not be opened."""


@dataclass(slots=True)
class SessionState:
    """What others may know of the session."""

    connected: bool = False
    manager: str = ""
    problem: str = ""
    """Why there is none."""


class Session:
    def __init__(
        self,
        sink: SessionSink,
        reporter: Reporter,
        *,
        managers: Callable[[], tuple[str, ...]],
        dial: Dial,
        clock: Clock,
        random: Random,
    ) -> None:
        self._sink = sink
        self._reporter = reporter
        self._managers = managers
        self._dial = dial
        self._clock = clock
        self._random = random
        self._failures = 0
        self._hurry = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._open = asyncio.Event()
        self.state = SessionState()

    async def run(self) -> None:
        """Hold a session for ever."""
        while True:
            address = self._choose()
            try:
                await self._hold(address)
                self._ended(address, "the manager closed the session")
            except (
                grpc.aio.AioRpcError,
                UnavailableError,
                DeadlineError,
                asyncio.InvalidStateError,
            ) as error:
                self._ended(address, _reason(error))
            await self._pause()

    def hurry(self) -> None:
        """A manager has just become ready: do not wait out the pause between two attempts."""
        if not self.state.connected:
            self._failures = 0
            self._hurry.set()

    async def channel(self) -> grpc.aio.Channel:
        """The one to the manager that holds the session; waits until there is one."""
        while self._channel is None:
            await self._open.wait()
        return self._channel

    def _choose(self) -> str:
        known = self._managers()
        others = [address for address in known if address != self.state.manager]
        return self._random.choice(others if self._failures and others else known)

    def _ended(self, address: str, reason: str) -> None:
        was_connected, self.state.connected = self.state.connected, False
        if was_connected or reason != self.state.problem:
            what = "Session with a manager ended." if was_connected else "No manager gave a session."
            logger.warning(what, extra=fields(manager=address, error=reason))
        self.state.problem = reason
        self._failures += 1
        self._sink.lost()

    async def _pause(self) -> None:
        longest = min(FIRST_RETRY_NS << min(self._failures - 1, 20), LONGEST_RETRY_NS)
        pause_ns = self._random.randrange(longest)
        await sleep_unless(self._hurry, clock=self._clock, duration_ns=pause_ns)
        self._hurry.clear()

    async def _hold(self, address: str) -> None:
        self.state.manager = address
        async with self._dial(address) as channel:
            call: Call = rpc.DispatcherStub(channel).Session()
            try:
                welcome = await self._within(WELCOME_NS, self._greet(call))
                if not welcome.HasField("welcome"):
                    raise UnavailableError(f"{address} did not begin the session with a Welcome")
                await self._talk(call, welcome.welcome, channel)
            finally:
                self._channel = None
                self._open.clear()
                call.cancel()

    async def _greet(self, call: Call) -> dispatch.ManagerMessage:
        await call.write(dispatch.WorkerMessage(hello=self._sink.hello()))
        return await _read(call)

    async def _talk(self, call: Call, welcome: dispatch.Welcome, channel: grpc.aio.Channel) -> None:
        self._sink.welcome(welcome)
        self._channel = channel
        self._open.set()
        outgoing = Outgoing(call)
        heartbeat = asyncio.create_task(self._beat(outgoing, welcome.heartbeat_period_ns))
        writers = {heartbeat}
        answered = False
        reading = asyncio.create_task(_read(call))
        try:
            while True:
                # One that has never answered a heartbeat is of an older version, and does not.
                message = await self._heard(reading, welcome.heartbeat_period_ns if answered else None)
                reading = asyncio.create_task(_read(call))
                answered = answered or message.HasField("heartbeat")
                if message.HasField("dial"):
                    self._sink.dial(self.state.manager, message.dial)
                if message.HasField("trust"):
                    self._sink.trust(message.trust)
                if not message.HasField("assignments"):
                    continue
                self._sink.assignments(message.assignments)
                if not self.state.connected and message.assignments.complete:
                    # Reports only now: a status of a task that is not assigned any more would be refused.
                    self._connected(welcome)
                    writers.add(asyncio.create_task(self._report(outgoing)))
        except asyncio.CancelledError:
            await self._part(outgoing, reading)
            raise
        finally:
            await _end({*writers, reading})

    async def _heard(
        self, reading: asyncio.Task[dispatch.ManagerMessage], period_ns: int | None
    ) -> dispatch.ManagerMessage:
        """What is read next; the reading goes on when this is cancelled. Raises DeadlineError after a long silence."""
        waiting: set[asyncio.Future[Any]] = {reading}
        if period_ns is not None:
            deadline_ns = self._clock.now_ns() + MISSED_ANSWERS * period_ns
            waiting.add(asyncio.ensure_future(self._clock.sleep_until(deadline_ns)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting - {reading}:
                future.cancel()
        if not reading.done():
            raise DeadlineError(f"the manager answered none of {MISSED_ANSWERS} heartbeats")
        return reading.result()

    async def _part(self, outgoing: Outgoing, reading: asyncio.Task[dispatch.ManagerMessage]) -> None:
        """Tell the manager that the agent ends in an orderly way, if it can be told quickly.

        The manager's end of the stream is waited for: breaking it off could overtake what was written.
        """
        goodbye = asyncio.create_task(outgoing.write(dispatch.WorkerMessage(goodbye=dispatch.Goodbye())))
        await asyncio.wait({goodbye, reading}, timeout=FAREWELL_NS / SECOND)
        await asyncio.wait({reading}, timeout=FAREWELL_NS / SECOND)
        await _end({goodbye})

    def _connected(self, welcome: dispatch.Welcome) -> None:
        self._failures = 0
        self.state.connected = True
        self.state.problem = ""
        self._reporter.restart()
        logger.info(
            "Session opened.", extra=fields(manager=self.state.manager, session_id=welcome.session_id)
        )

    async def _report(self, outgoing: Outgoing) -> None:
        while True:
            for message in await self._reporter.take():
                await outgoing.write(message)

    async def _beat(self, outgoing: Outgoing, period_ns: int) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + period_ns)
            await outgoing.write(dispatch.WorkerMessage(heartbeat=dispatch.Heartbeat()))

    async def _within(self, limit_ns: int, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises DeadlineError when it takes longer."""
        task = asyncio.create_task(work)
        timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ns() + limit_ns))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise DeadlineError(f"no answer within {limit_ns // SECOND} s")
            return task.result()
        finally:
            await _end({task, timer})


class Outgoing:
    """The way up. gRPC breaks a stream off when a second message is written while one is on its way."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._turn = asyncio.Lock()

    async def write(self, message: dispatch.WorkerMessage) -> None:
        """Raises AioRpcError when the stream is broken."""
        async with self._turn:
            await self._call.write(message)


async def _read(call: Call) -> dispatch.ManagerMessage:
    """The next message. Raises AioRpcError or UnavailableError at the end of the stream."""
    message: Any = await call.read()
    if message is grpc.aio.EOF:
        raise UnavailableError(await call.details() or "the manager closed the session")
    assert isinstance(message, dispatch.ManagerMessage)
    return message


async def _end(tasks: set[asyncio.Task[Any]] | set[Any]) -> None:
    """Cancel the tasks and wait until they are over; what a writer of a broken stream raised is the reader's too."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
