"""One node's stream, from its Hello to its end.

Three jobs share a session and end together: hearing the node, telling it its assignments, and writing what it
reports. A fourth watches the clock. Whichever ends first says why, and the others are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from minicommon.clock import Clock
from minicommon.errors import DeadlineError, InvalidArgumentError, MiniError
from miniproto.v1 import dispatcher_pb2, streams_pb2

from minimanager.codec import from_proto
from minimanager.domain.objects import NodeDescription
from minimanager.rpc.dispatcher import wire
from minimanager.rpc.dispatcher.feed import Subscription
from minimanager.rpc.dispatcher.opener import Opener
from minimanager.rpc.dispatcher.presence import MISSED_HEARTBEATS
from minimanager.rpc.dispatcher.reports import Reports
from minimanager.rpc.dispatcher.trust import Roots

Describe = Callable[[NodeDescription], Awaitable[object]]
Certify = Callable[[dispatcher_pb2.NodeCertificate], Awaitable[object]]
Rekey = Callable[[dispatcher_pb2.WireGuardKeys], Awaitable[object]]
Admit = Callable[[], Awaitable[None]]
"""Makes the node READY, now or later."""
Send = Callable[[dispatcher_pb2.ManagerMessage], Awaitable[None]]

SILENT = "heartbeat failure"
"""SwarmKit's words for a node that missed its heartbeats."""


class NodeSession:
    """The manager's side of one stream."""

    def __init__(self, *, node_id: str, session_id: str, clock: Clock, period_ns: int) -> None:
        self.node_id = node_id
        self.session_id = session_id
        self._clock = clock
        self._silence_ns = MISSED_HEARTBEATS * period_ns
        self._deadline_ns = clock.now_ns() + self._silence_ns
        self._dials: asyncio.Queue[streams_pb2.Dial] = asyncio.Queue()
        self._answer = asyncio.Event()
        self.parted = False
        """The node has said goodbye: it means to come back."""
        self._sending = asyncio.Lock()
        self._closed: asyncio.Future[MiniError] = asyncio.get_running_loop().create_future()

    def close(self, reason: MiniError) -> None:
        """End the stream with this error. Only the first reason counts."""
        if not self._closed.done():
            self._closed.set_result(reason)

    def dial(self, dial: streams_pb2.Dial) -> None:
        """Ask the node to open a stream."""
        self._dials.put_nowait(dial)

    @property
    def left_ns(self) -> int:
        """Nanoseconds until the node counts as silent."""
        return max(0, self._deadline_ns - self._clock.now_ns())

    async def run(
        self,
        messages: AsyncIterator[dispatcher_pb2.WorkerMessage],
        send: Send,
        *,
        subscription: Subscription,
        opener: Opener,
        reports: Reports,
        describe: Describe,
        certify: Certify,
        roots: Roots,
        rekey: Rekey,
        admit: Admit,
    ) -> None:
        """Serve the stream until the node ends it.

        Raises what ended it otherwise: DeadlineError for silence, the reason given to `close`, or what a job raised.
        """
        hearing = asyncio.create_task(
            self._hear(messages, subscription, reports, describe, certify, rekey), name="session: hear"
        )
        jobs: list[asyncio.Task[None]] = [
            hearing,
            asyncio.create_task(self._tell(send, subscription, opener), name="session: tell"),
            asyncio.create_task(self._tell_roots(send, roots), name="session: tell roots"),
            asyncio.create_task(self._ask(send), name="session: ask"),
            asyncio.create_task(self._beat_back(send), name="session: beat back"),
            asyncio.create_task(reports.run(), name="session: reports"),
            asyncio.create_task(self._watch(), name="session: watch"),
            asyncio.create_task(_admitted(admit), name="session: admit"),
            asyncio.create_task(self._until_closed(), name="session: until closed"),
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done() and hearing.exception() is None:
                jobs.append(asyncio.create_task(reports.written(), name="session: last reports"))
                await asyncio.wait(jobs[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        for job in jobs:
            if not job.cancelled() and (error := job.exception()) is not None:
                raise error

    async def _hear(
        self,
        messages: AsyncIterator[dispatcher_pb2.WorkerMessage],
        subscription: Subscription,
        reports: Reports,
        describe: Describe,
        certify: Certify,
        rekey: Rekey,
    ) -> None:
        async for message in messages:
            self._deadline_ns = self._clock.now_ns() + self._silence_ns
            match message.WhichOneof("message"):
                case "heartbeat":
                    self._answer.set()
                case "goodbye":
                    self.parted = True
                    return
                case "status":
                    reports.add(from_proto(status) for status in message.status.statuses)
                case "applied":
                    subscription.applied(message.applied.revision)
                case "description":
                    await describe(from_proto(message.description))
                case "certificate":
                    await certify(message.certificate)
                case "keys":
                    await rekey(message.keys)
                case other:
                    raise InvalidArgumentError(
                        "message: expected heartbeat, status, applied, description, keys or goodbye after the first, "
                        f"got {other}"
                    )

    async def _tell(self, send: Send, subscription: Subscription, opener: Opener) -> None:
        while True:
            update = await subscription.next()
            async with self._sending:
                await send(wire.assignments(update, opener))

    async def _ask(self, send: Send) -> None:
        while True:
            dial = await self._dials.get()
            async with self._sending:
                await send(dispatcher_pb2.ManagerMessage(dial=dial))

    async def _beat_back(self, send: Send) -> None:
        """Heartbeats that come while an answer waits for its turn have one answer."""
        while True:
            await self._answer.wait()
            self._answer.clear()
            async with self._sending:
                await send(dispatcher_pb2.ManagerMessage(heartbeat=dispatcher_pb2.Heartbeat()))

    async def _tell_roots(self, send: Send, roots: Roots) -> None:
        while True:
            message = roots.message
            async with self._sending:
                await send(message)
            if message is roots.message:
                await roots.wait_change()

    async def _watch(self) -> None:
        while self.left_ns:
            await self._clock.sleep_until(self._deadline_ns)
        raise DeadlineError(SILENT)

    async def _until_closed(self) -> None:
        raise await self._closed


async def _admitted(admit: Admit) -> None:
    """Do it, and go on for as long as the session: the end of a job is the end of all."""
    await admit()
    await asyncio.get_running_loop().create_future()
