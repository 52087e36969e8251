"""The worker's side of a dispatcher session, as a test drives it: real gRPC, no containers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType

import grpc
from miniproto.v1 import dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2

PATIENCE = 20.0
"""Seconds that a test waits for something that should happen at once."""

RUN = (objects_pb2.TASK_STATE_ACCEPTED, objects_pb2.TASK_STATE_PREPARING, objects_pb2.TASK_STATE_RUNNING)


class ScriptedAgent:
    """Holds a session and remembers what it was told.

    `obliging` agents report tasks running and shut down, and those of jobs done.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        hostname: str = "worker",
        address: str = "10.77.0.12",
        encryption_key: str = "",
        obliging: bool = True,
    ) -> None:
        self._stub = dispatcher_pb2_grpc.DispatcherStub(channel)
        self._hello = dispatcher_pb2.Hello(
            description=objects_pb2.NodeDescription(
                hostname=hostname,
                os="linux",
                architecture="x86_64",
                resources=objects_pb2.NodeResources(nano_cpus=4_000_000_000, memory_bytes=8 << 30),
                engine_version="0.1.0",
                runtime="oci",
            ),
            data_path_address=address,
            encryption_key=encryption_key,
        )
        self._obliging = obliging
        self._outgoing: asyncio.Queue[dispatcher_pb2.WorkerMessage | None] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._reported: dict[str, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self.welcome: dispatcher_pb2.Welcome | None = None
        self.sets: list[dispatcher_pb2.Assignments] = []
        self.assigned: dict[str, dispatcher_pb2.Assignment] = {}
        self.error: grpc.aio.AioRpcError | None = None
        self.answers = 0
        """Heartbeats that the manager answered."""
        self.fate: Callable[[dispatcher_pb2.AssignedTask], tuple[int, ...]] = lambda task: RUN
        """The states that an obliging agent reports of a task that is to run."""

    async def __aenter__(self) -> ScriptedAgent:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def connect(self) -> None:
        """Open the session and wait for the complete set."""
        await self._outgoing.put(dispatcher_pb2.WorkerMessage(hello=self._hello))
        self._reader = asyncio.create_task(self._read())
        await self.until(lambda: bool(self.sets) or self.error is not None)

    async def cut(self) -> None:
        """Drop the connection, as a killed agent does."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a message made `condition` true."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), PATIENCE)

    async def beat(self) -> None:
        await self._outgoing.put(dispatcher_pb2.WorkerMessage(heartbeat=dispatcher_pb2.Heartbeat()))

    async def send(self, message: dispatcher_pb2.WorkerMessage) -> None:
        await self._outgoing.put(message)

    async def rekey(self, current: str, following: str) -> None:
        """Tell other keys for encrypted networks."""
        keys = dispatcher_pb2.WireGuardKeys(current=current, next=following)
        await self.send(dispatcher_pb2.WorkerMessage(keys=keys))

    async def finished(self) -> None:
        """Wait until the manager has ended the session, in an orderly way or not."""
        assert self._reader is not None
        await asyncio.wait_for(asyncio.shield(self._reader), PATIENCE)

    async def ended(self) -> grpc.aio.AioRpcError:
        """Wait until the manager has ended the session; what it said."""
        await self.until(lambda: self.error is not None)
        assert self.error is not None
        return self.error

    async def report(self, task_id: str, state: int, *, error: str = "", exit_code: int = 0) -> None:
        """Tell that the task reached `state`."""
        status = objects_pb2.TaskStatus(
            id=task_id,
            state=objects_pb2.TaskState.ValueType(state),
            state_since_ns=time.time_ns(),
            error=error,
            exit_code=exit_code,
        )
        await self.send(dispatcher_pb2.WorkerMessage(status=dispatcher_pb2.StatusReport(statuses=[status])))

    def tasks(self) -> dict[str, dispatcher_pb2.AssignedTask]:
        """The tasks assigned now, by id."""
        return {a.task.id: a.task for key, a in self.assigned.items() if key.startswith("task/")}

    def wanted(self) -> list[str]:
        """Ids of the tasks that should run."""
        return [t.id for t in self.tasks().values() if t.desired_state == objects_pb2.TASK_STATE_RUNNING]

    def port(self, published: int) -> dispatcher_pb2.PublishedPort | None:
        found = self.assigned.get(f"port/tcp/{published}")
        return None if found is None else found.port

    async def _messages(self) -> AsyncIterator[dispatcher_pb2.WorkerMessage]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def _read(self) -> None:
        try:
            async for message in self._stub.Session(self._messages()):
                async with self._changed:
                    await self._take(message)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            async with self._changed:
                self.error = error
                self._changed.notify_all()

    async def _take(self, message: dispatcher_pb2.ManagerMessage) -> None:
        if message.HasField("welcome"):
            self.welcome = message.welcome
            return
        if message.HasField("heartbeat"):
            self.answers += 1
            return
        update = message.assignments
        if update.complete:
            self.assigned.clear()
        self.sets.append(update)
        for change in update.changes:
            if change.remove:
                self.assigned.pop(change.key, None)
            else:
                self.assigned[change.key] = change.assignment
                if self._obliging and change.key.startswith("task/"):
                    await self._oblige(change.assignment.task)

    async def _oblige(self, task: dispatcher_pb2.AssignedTask) -> None:
        if task.desired_state > objects_pb2.TASK_STATE_COMPLETE:
            states: tuple[int, ...] = (objects_pb2.TASK_STATE_SHUTDOWN,)
        elif task.desired_state == objects_pb2.TASK_STATE_COMPLETE:
            states = (*RUN, objects_pb2.TASK_STATE_COMPLETE)
        elif task.desired_state == objects_pb2.TASK_STATE_RUNNING:
            states = self.fate(task)
        else:
            states = (objects_pb2.TASK_STATE_READY,)
        for state in states:
            if state > self._reported.get(task.id, 0):
                self._reported[task.id] = state
                await self.report(task.id, state)
