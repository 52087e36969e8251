"""A manager's dispatcher as a test drives it: real gRPC on a unix socket, told by hand what to assign."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from miniproto.v1 import dispatcher_pb2 as pb
from miniproto.v1 import dispatcher_pb2_grpc, secrets_pb2, secrets_pb2_grpc
from miniproto.v1 import objects_pb2 as objects

HEARTBEAT_NS = 5_000_000_000


class FakeDeliveries(secrets_pb2_grpc.DeliveriesServicer):
    """Gives the contents that it was told, by the id of the secret or config; `down` for as long as that is set."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[secrets_pb2.FetchRequest] = []
        self.receipts: list[secrets_pb2.Receipt] = []
        self.down = False
        self.confirmed = asyncio.Event()

    async def Fetch(self, request: secrets_pb2.FetchRequest, context: Any) -> secrets_pb2.FetchResponse:
        self.asked.append(request)
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the store does not answer")
        data = self.contents.get(request.secret_id or request.config_id)
        if data is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the task does not use it")
            raise AssertionError("abort returned")
        record = secrets_pb2.LedgerRecord(number=len(self.asked), secret_id=request.secret_id)
        return secrets_pb2.FetchResponse(
            data=data, record=record.SerializeToString() if request.secret_id else b""
        )

    async def Confirm(self, request: secrets_pb2.Receipt, context: Any) -> secrets_pb2.ReceiptResponse:
        self.receipts.append(request)
        self.confirmed.set()
        return secrets_pb2.ReceiptResponse()


class FakeDispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """Remembers what agents say; `assign` and `remove` change what every session is told."""

    def __init__(self, socket: Path, *, managers: tuple[str, ...] = ()) -> None:
        self.address = f"unix:{socket}"
        self.managers = managers
        self.hellos: list[pb.Hello] = []
        self.heartbeats = 0
        self.goodbyes = 0
        self.answering = False
        """Whether heartbeats are answered."""
        self.applied: list[int] = []
        self.history: dict[str, list[int]] = {}
        self.statuses: dict[str, objects.TaskStatus] = {}
        self.silent = False
        self.deliveries = FakeDeliveries()
        self._items: dict[str, pb.Assignment] = {}
        self._revision = 1
        self._sessions: set[asyncio.Queue[pb.ManagerMessage | None]] = set()
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        self._server = grpc.aio.server()
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self, self._server)
        secrets_pb2_grpc.add_DeliveriesServicer_to_server(self.deliveries, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Break every session, as a killed manager does."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    @staticmethod
    def dial(address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address)

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    @property
    def revision(self) -> int:
        return self._revision

    def assign(self, **items: pb.Assignment) -> None:
        """Assign by key; `__` in a name stands for `/`."""
        self._change({key.replace("__", "/"): item for key, item in items.items()}, ())

    def assign_task(self, task: pb.AssignedTask) -> None:
        self._change({f"task/{task.id}": pb.Assignment(task=task)}, ())

    def remove(self, *keys: str) -> None:
        self._change({}, keys)

    def close_sessions(self) -> None:
        """End every session in an orderly way."""
        for session in self._sessions:
            session.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that an agent says to make `condition` true."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def task_state(self, task_id: str, state: int) -> objects.TaskStatus:
        await self.until(lambda: task_id in self.statuses and self.statuses[task_id].state >= state)
        assert self.statuses[task_id].state == state, self.statuses[task_id]
        return self.statuses[task_id]

    async def Session(
        self, request_iterator: AsyncIterator[pb.WorkerMessage], context: Any
    ) -> AsyncIterator[pb.ManagerMessage]:
        first = await anext(aiter(request_iterator))
        self.hellos.append(first.hello)
        await self._notify()
        if self.silent:
            await asyncio.Event().wait()
        outgoing: asyncio.Queue[pb.ManagerMessage | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, outgoing))
        self._sessions.add(outgoing)
        try:
            yield pb.ManagerMessage(
                welcome=pb.Welcome(session_id="s", heartbeat_period_ns=HEARTBEAT_NS, managers=self.managers)
            )
            yield self._message(self._items, (), complete=True)
            await self._notify()
            while (message := await outgoing.get()) is not None:
                yield message
        finally:
            self._sessions.discard(outgoing)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(
        self, messages: AsyncIterator[pb.WorkerMessage], outgoing: asyncio.Queue[pb.ManagerMessage | None]
    ) -> None:
        async for message in messages:
            match message.WhichOneof("message"):
                case "heartbeat":
                    self.heartbeats += 1
                    if self.answering:
                        outgoing.put_nowait(pb.ManagerMessage(heartbeat=pb.Heartbeat()))
                case "goodbye":
                    self.goodbyes += 1
                    outgoing.put_nowait(None)
                case "applied":
                    self.applied.append(message.applied.revision)
                case "status":
                    for status in message.status.statuses:
                        self.statuses[status.id] = status
                        self.history.setdefault(status.id, []).append(status.state)
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _change(self, items: dict[str, pb.Assignment], removed: tuple[str, ...]) -> None:
        self._revision += 1
        self._items.update(items)
        for key in removed:
            del self._items[key]
        for session in self._sessions:
            session.put_nowait(self._message(items, removed, complete=False))

    def _message(
        self, items: dict[str, pb.Assignment], removed: tuple[str, ...], *, complete: bool
    ) -> pb.ManagerMessage:
        changes = [pb.AssignmentChange(key=key, assignment=item) for key, item in items.items()]
        changes += [pb.AssignmentChange(key=key, remove=True) for key in removed]
        return pb.ManagerMessage(
            assignments=pb.Assignments(revision=self._revision, complete=complete, changes=changes)
        )
