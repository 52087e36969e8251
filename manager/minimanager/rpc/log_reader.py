"""Logs of a service or a task, from all the nodes that have a part of them.

Without `follow` the lines of all tasks come in the order of their times. With it they come as they are written, from
tasks that start later, too, until the service is gone or the task has ended. A node that is away costs a warning and
its own lines; when it is back its lines go on where they broke off.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from minicommon.errors import DeadlineError, NotFoundError, UnavailableError
from miniproto.v1 import streams_pb2 as pb

from minimanager.domain.objects import Task, TaskState
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import container_refs as refs
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.node_streams import NodeStreams
from minimanager.rpc.requests import find_service
from minimanager.store.cache import Subscription

WAITING = 16
"""Batches of lines, of all tasks together, that wait for a slow reader."""


@dataclass(slots=True)
class _Source:
    """A task whose logs are read."""

    number: int
    task: Task
    told: bool = False
    last_ns: int = 0
    """When the last line was written that has been passed on."""
    same_ns: int = 0
    """How many lines with this very time have been passed on."""

    def note(self, lines: Sequence[pb.LogLine]) -> None:
        """These are passed on."""
        last_ns = lines[-1].time_ns
        same = sum(1 for line in lines if line.time_ns == last_ns)
        self.same_ns = same + (self.same_ns if last_ns == self.last_ns else 0)
        self.last_ns = last_ns


class LogReader:
    def __init__(self, core: Core, nodes: NodeStreams) -> None:
        self._core = core
        self._nodes = nodes
        self._watches: set[Subscription] = set()

    def close(self) -> None:
        """End every follower: the manager stops."""
        for watch in tuple(self._watches):
            watch.close()

    async def read(self, request: pb.LogsRequest) -> AsyncIterator[pb.LogsResponse]:
        """The answer to the request. Raises NotFoundError, InvalidArgumentError."""
        snapshot = await self._core.read()
        service_id, task_id = _meant(snapshot, request)
        reading = _Reading(self._core, self._nodes, request.options)
        if request.options.follow:
            with self._core.cache.subscribe() as changes:
                self._watches.add(changes)
                try:
                    async for response in reading.follow(changes, service_id, task_id):
                        yield response
                finally:
                    self._watches.discard(changes)
        else:
            async for response in reading.in_order(_tasks(snapshot, service_id, task_id)):
                yield response


class _Reading:
    """One request being answered."""

    def __init__(self, core: Core, nodes: NodeStreams, options: pb.LogsQuery) -> None:
        self._core = core
        self._nodes = nodes
        self._options = options
        self._sources: dict[str, _Source] = {}
        self._warned: set[str] = set()

    # --- in order ---

    async def in_order(self, tasks: list[Task]) -> AsyncIterator[pb.LogsResponse]:
        """Merge by time: of each source the next batch is held, and of the earliest what comes before the others."""
        warnings: list[str] = []
        async with _all_closed([self._lines(self._source(task), warnings) for task in tasks]) as streams:
            firsts = await asyncio.gather(*map(_following, streams))
            heads = [
                (batch[0].time_ns, number, batch) for number, batch in enumerate(firsts) if batch is not None
            ]
            heapq.heapify(heads)
            sources = list(self._sources.values())
            while heads or warnings:
                while warnings:
                    yield pb.LogsResponse(warning=warnings.pop(0))
                if not heads:
                    return
                _, number, batch = heapq.heappop(heads)
                end = _earlier(batch, heads[0][0]) if heads else len(batch)
                yield self._response(sources[number], batch[:end])
                rest: list[pb.LogLine] | None = batch[end:]
                rest = rest or await _following(streams[number])
                if rest:
                    heapq.heappush(heads, (rest[0].time_ns, number, rest))

    async def _lines(self, source: _Source, warnings: list[str]) -> AsyncIterator[list[pb.LogLine]]:
        """The lines of a task; a warning when its node cannot give them."""
        try:
            async for batch in self._batches(source):
                yield batch
        except (UnavailableError, DeadlineError) as error:
            if error.message not in self._warned:
                self._warned.add(error.message)
                warnings.append(error.message)
        except NotFoundError:
            return  # it never had a container, or has none any more

    # --- following ---

    async def follow(
        self, changes: Subscription, service_id: str, task_id: str
    ) -> AsyncIterator[pb.LogsResponse]:
        arrived: asyncio.Queue[pb.LogsResponse] = asyncio.Queue(WAITING)
        keeping = asyncio.create_task(self._keep(changes, service_id, task_id, arrived), name="follow logs")
        try:
            while (response := await _next(arrived, keeping)) is not None:
                yield response
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(
        self,
        changes: Subscription,
        service_id: str,
        task_id: str,
        arrived: asyncio.Queue[pb.LogsResponse],
    ) -> None:
        """Have a pump for each task that has a container, until the service is gone or the task has ended."""
        running: set[str] = set()
        over: set[str] = set()
        wake = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            waker = group.create_task(_wake_on(changes, wake))
            with self._nodes.watched(wake.set):
                while True:
                    wake.clear()
                    snapshot = self._core.cache.snapshot()
                    wanted = _tasks(snapshot, service_id, task_id)
                    for task in wanted:
                        if task.id in running or task.id in over or not _has_container(snapshot, task):
                            continue
                        if task.node_id in self._nodes.connected():
                            running.add(task.id)
                            source = self._source(task)
                            group.create_task(self._pump(source, arrived, running, over, wake))
                        else:
                            await self._warn(arrived, task.node_id, "is away")
                    if task_id in over or not (wanted or service_id in snapshot.services):
                        break
                    await wake.wait()
            waker.cancel()

    async def _pump(
        self,
        source: _Source,
        arrived: asyncio.Queue[pb.LogsResponse],
        running: set[str],
        over: set[str],
        wake: asyncio.Event,
    ) -> None:
        """Pass on what one task writes. Ended by a node that went away, it is begun anew when that is back."""
        try:
            async for batch in self._batches(source):
                self._warned.discard(source.task.node_id)
                await arrived.put(self._response(source, batch))
            over.add(source.task.id)
        except NotFoundError:
            over.add(source.task.id)  # it never had a container, or has none any more
        except (UnavailableError, DeadlineError):
            await self._warn(arrived, source.task.node_id, "went away")
        finally:
            running.discard(source.task.id)
            wake.set()

    async def _warn(self, arrived: asyncio.Queue[pb.LogsResponse], node_id: str, what: str) -> None:
        """Once for each time that a node is away."""
        if node_id not in self._warned:
            self._warned.add(node_id)
            name = views.hostname(self._core.cache.snapshot(), node_id) or node_id
            await arrived.put(
                pb.LogsResponse(warning=f"node {name} {what}: the logs of its tasks are incomplete")
            )

    # --- both ---

    def _source(self, task: Task) -> _Source:
        return self._sources.setdefault(task.id, _Source(len(self._sources) + 1, task))

    async def _batches(self, source: _Source) -> AsyncIterator[list[pb.LogLine]]:
        """The task's lines as its node gives them, without those that were passed on before."""
        query = pb.LogsQuery()
        query.CopyFrom(self._options)
        query.container_id = source.task.id
        skip = 0
        if source.last_ns:
            query.since_ns, skip = source.last_ns, source.same_ns
            query.ClearField("tail")
        async with self._nodes.open(source.task.node_id, pb.NodeRequest(logs=query)) as stream:
            async for output in stream:
                lines = list(output.logs.lines)
                while skip and lines and lines[0].time_ns == query.since_ns:
                    del lines[0]
                    skip -= 1
                if lines:
                    source.note(lines)
                    yield lines

    def _response(self, source: _Source, lines: list[pb.LogLine]) -> pb.LogsResponse:
        response = pb.LogsResponse(source_number=source.number, lines=lines)
        if not source.told:
            source.told = True
            response.source.CopyFrom(_described(self._core.cache.snapshot(), source.task))
        return response


def _meant(snapshot: Snapshot, request: pb.LogsRequest) -> tuple[str, str]:
    """The service's id, or the task's: one of them is empty. Raises NotFoundError."""
    if not request.task:
        try:
            return find_service(snapshot, request.ref).id, ""
        except NotFoundError:
            pass
    try:
        return "", refs.find_container(snapshot, request.ref).id
    except NotFoundError:
        what = "task" if request.task else "task or service"
        raise NotFoundError(f"no such {what}: {request.ref}") from None


def _tasks(snapshot: Snapshot, service_id: str, task_id: str) -> list[Task]:
    """The one task, or those of the service, ended ones too, that have got a node."""
    if task_id:
        found = [task for key, task in snapshot.tasks.items() if key == task_id]
    else:
        found = list(snapshot.of_service(service_id).values())
    return sorted((task for task in found if task.node_id), key=lambda task: (task.slot, task.id))


def _has_container(snapshot: Snapshot, task: Task) -> bool:
    return TaskState.READY <= snapshot.state(task) < TaskState.REJECTED


def _described(snapshot: Snapshot, task: Task) -> pb.TaskLogs:
    return pb.TaskLogs(
        task_id=task.id,
        task_name=task.name,
        service_id=task.service_id,
        slot=task.slot,
        node_id=task.node_id,
        node_hostname=views.hostname(snapshot, task.node_id),
        details=dict(task.spec.container.labels),
    )


def _earlier(lines: list[pb.LogLine], than_ns: int) -> int:
    """How many of the lines, at least one, were written no later than that."""
    return max(1, bisect.bisect_right(lines, than_ns, key=lambda line: line.time_ns))


async def _following(stream: AsyncIterator[list[pb.LogLine]]) -> list[pb.LogLine] | None:
    """The next batch; None: there is none."""
    async for batch in stream:
        return batch
    return None


async def _wake_on(changes: Subscription, wake: asyncio.Event) -> None:
    async for _ in changes:
        wake.set()
    raise UnavailableError("the manager is stopping")


async def _next(
    arrived: asyncio.Queue[pb.LogsResponse], keeping: asyncio.Task[None]
) -> pb.LogsResponse | None:
    """What arrived next; None when nothing is left and nothing will come. Raises what ended `keeping`."""
    while arrived.empty():
        if keeping.done():
            _raise_single(keeping)
            return None
        getting = asyncio.ensure_future(arrived.get())
        await asyncio.wait({getting, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
    return arrived.get_nowait()


def _raise_single(keeping: asyncio.Task[None]) -> None:
    """The first of the errors that a task group gathered."""
    error = keeping.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


@asynccontextmanager
async def _all_closed(
    streams: list[AsyncIterator[list[pb.LogLine]]],
) -> AsyncIterator[list[AsyncIterator[list[pb.LogLine]]]]:
    try:
        yield streams
    finally:
        for stream in streams:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
