"""Containers, wherever they run: each call is passed on to the node and its answer back, as fast as the client reads.

Who did what to which container is a record in the log; what was typed or written is never in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from grpc import aio
from minicommon.container_filters import filter_containers
from minicommon.errors import DeadlineError, InvalidArgumentError, MiniError, UnavailableError
from miniproto.v1 import streams_pb2 as pb
from miniproto.v1 import streams_pb2_grpc

from minimanager.domain.objects import NodeState, Task
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import container_refs as refs
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.log_reader import LogReader
from minimanager.rpc.node_streams import NodeStreams
from minimanager.rpc.one_offs import OneOffs
from minimanager.rpc.requests import check, filters_of
from minimanager.rpc.splice import first, record, spliced

Context = aio.ServicerContext[Any, Any]
T = TypeVar("T")


class ContainersServicer(streams_pb2_grpc.ContainersServicer):
    def __init__(self, core: Core, nodes: NodeStreams, one_offs: OneOffs) -> None:
        self._core = core
        self._nodes = nodes
        self._one_offs = one_offs
        self._logs = LogReader(core, nodes)

    def close(self) -> None:
        """The manager stops: whoever follows logs is told to ask another."""
        self._logs.close()

    # --- looking ---

    async def List(self, request: pb.ListContainersRequest, context: Context) -> pb.ListContainersResponse:
        check(request)
        filters = filters_of(request.filters)
        filter_containers((), filters, all=request.all)
        snapshot = await self._core.read()
        answers, warnings = await self._ask_all(snapshot, pb.NodeRequest(list=pb.ListQuery()))
        found = []
        for node_id, answer in answers.items():
            for info in answer.containers.containers:
                refs.enrich(snapshot, info, node_id)
                found.append(info)
        return pb.ListContainersResponse(
            containers=filter_containers(found, filters, all=request.all), warnings=warnings
        )

    async def Inspect(self, request: pb.InspectContainerRequest, context: Context) -> pb.InspectedContainer:
        check(request)
        snapshot, task = await self._find(request.ref)
        answer = await self._nodes.ask(
            task.node_id, pb.NodeRequest(inspect=pb.InspectQuery(container_id=task.id))
        )
        refs.enrich(snapshot, answer.inspected.info, task.node_id)
        return answer.inspected

    async def Top(self, request: pb.TopRequest, context: Context) -> pb.ProcessTable:
        check(request)
        _, task = await self._find(request.ref)
        query = pb.TopQuery(container_id=task.id, arguments=request.arguments)
        return (await self._nodes.ask(task.node_id, pb.NodeRequest(top=query))).processes

    async def Stats(self, request: pb.StatsRequest, context: Context) -> AsyncIterator[pb.StatsResponse]:
        check(request)
        snapshot = await self._core.read()
        wanted: dict[str, list[str]] = {}
        for ref in request.refs:
            task = refs.placed(snapshot, refs.find_container(snapshot, ref))
            wanted.setdefault(task.node_id, []).append(task.id)
        if not request.refs:
            wanted = {node_id: [] for node_id in self._nodes.connected()}
            for warning in self._away(snapshot):
                yield pb.StatsResponse(warning=warning)
        yield pb.StatsResponse(asked_node_ids=sorted(wanted))
        streams = [
            self._usage(snapshot, node_id, pb.StatsQuery(container_ids=ids, once=request.once))
            for node_id, ids in wanted.items()
        ]
        async for response in merged(streams):
            yield response

    async def _usage(
        self, snapshot: Snapshot, node_id: str, query: pb.StatsQuery
    ) -> AsyncIterator[pb.StatsResponse]:
        name = views.hostname(snapshot, node_id)
        try:
            async with self._nodes.open(node_id, pb.NodeRequest(stats=query)) as stream:
                async for output in stream:
                    for each in output.usage.containers:
                        each.node_id, each.node_hostname = node_id, name
                        task = self._core.cache.snapshot().tasks.get(each.id)
                        if task is not None:
                            each.name = refs.shown_name(self._core.cache.snapshot(), task)
                    yield pb.StatsResponse(node_id=node_id, containers=output.usage.containers)
        except (UnavailableError, DeadlineError) as error:
            yield pb.StatsResponse(node_id=node_id, warning=error.message)

    async def Logs(self, request: pb.LogsRequest, context: Context) -> AsyncIterator[pb.LogsResponse]:
        check(request)
        async for response in self._logs.read(request):
            yield response

    # --- talking ---

    async def Exec(
        self, request_iterator: AsyncIterator[pb.ExecInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await first(request_iterator, "start")).start
        check(start)
        if not start.options.command:
            raise InvalidArgumentError("options.command: a command to run must be given")
        _, task = await self._find(start.ref)
        query = pb.ExecQuery()
        query.CopyFrom(start.options)
        query.container_id = task.id
        record(context, "exec", task, program=query.command[0], user=query.user, tty=query.tty)
        inputs = (message.input async for message in request_iterator)
        async with self._nodes.open(task.node_id, pb.NodeRequest(exec=query)) as stream:
            async for output in spliced(stream, inputs):
                yield output

    async def Attach(
        self, request_iterator: AsyncIterator[pb.AttachInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await first(request_iterator, "start")).start
        check(start)
        _, task = await self._find(start.ref)
        query = pb.AttachQuery()
        query.CopyFrom(start.options)
        query.container_id = task.id
        record(context, "attach", task, stdin=query.stdin)
        inputs = (message.input async for message in request_iterator)
        async with self._nodes.open(task.node_id, pb.NodeRequest(attach=query)) as stream:
            async for output in spliced(stream, inputs):
                yield output

    async def Run(
        self, request_iterator: AsyncIterator[pb.RunInput], context: Context
    ) -> AsyncIterator[pb.RunOutput]:
        start = (await first(request_iterator, "start")).start
        inputs = (message.input async for message in request_iterator)
        async with aclosing(self._one_offs.run(start, inputs, context)) as outputs:
            async for output in outputs:
                yield output

    async def Forward(
        self, request_iterator: AsyncIterator[pb.ForwardInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await first(request_iterator, "start")).start
        check(start)
        if not 0 < start.port < 1 << 16:
            raise InvalidArgumentError(f"port: must be 1 to 65535, not {start.port}")
        _, task = await self._find(start.ref)
        record(context, "forward", task, port=start.port)
        query = pb.ForwardQuery(container_id=task.id, port=start.port)
        inputs = (message.input async for message in request_iterator)
        async with self._nodes.open(task.node_id, pb.NodeRequest(forward=query)) as stream:
            async for output in spliced(stream, inputs):
                yield output

    # --- files and images ---

    async def StatPath(self, request: pb.StatPathRequest, context: Context) -> pb.PathInfo:
        check(request)
        _, task = await self._find(request.ref)
        query = pb.StatPathQuery(container_id=task.id, path=request.path)
        return (await self._nodes.ask(task.node_id, pb.NodeRequest(stat_path=query))).path

    async def CopyFrom(self, request: pb.CopyFromRequest, context: Context) -> AsyncIterator[pb.StreamOutput]:
        check(request)
        _, task = await self._find(request.ref)
        record(context, "copy from", task, path=request.path)
        query = pb.CopyFromQuery(container_id=task.id, path=request.path, follow_link=request.follow_link)
        async with self._nodes.open(task.node_id, pb.NodeRequest(copy_from=query)) as stream:
            async for output in stream:
                yield output

    async def CopyTo(
        self, request_iterator: AsyncIterator[pb.CopyToInput], context: Context
    ) -> pb.CopyToResponse:
        start = (await first(request_iterator, "start")).start
        check(start)
        _, task = await self._find(start.ref)
        record(context, "copy to", task, path=start.path)
        query = pb.CopyToQuery(container_id=task.id, path=start.path, keep_owners=start.keep_owners)
        inputs = (_archive_input(message) async for message in request_iterator)
        async with self._nodes.open(task.node_id, pb.NodeRequest(copy_to=query)) as stream:
            async for _ in spliced(stream, inputs):
                pass
        return pb.CopyToResponse()

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommittedImage:
        check(request)
        snapshot, task = await self._find(request.ref)
        query = pb.CommitQuery()
        query.CopyFrom(request.options)
        query.container_id = task.id
        record(context, "commit", task, image=query.reference)
        image = (await self._nodes.ask(task.node_id, pb.NodeRequest(commit=query))).committed
        image.node_id, image.node_hostname = task.node_id, views.hostname(snapshot, task.node_id)
        return image

    # --- inside ---

    async def _find(self, ref: str) -> tuple[Snapshot, Task]:
        snapshot = await self._core.read()
        return snapshot, refs.placed(snapshot, refs.find_container(snapshot, ref))

    async def _ask_all(
        self, snapshot: Snapshot, request: pb.NodeRequest
    ) -> tuple[dict[str, pb.StreamOutput], list[str]]:
        """The answers by node, and why there is none of the others."""
        node_ids = self._nodes.connected()
        outcomes = await asyncio.gather(
            *(self._nodes.ask(node_id, request) for node_id in node_ids), return_exceptions=True
        )
        answers: dict[str, pb.StreamOutput] = {}
        warnings = self._away(snapshot)
        for node_id, outcome in zip(node_ids, outcomes, strict=True):
            if isinstance(outcome, pb.StreamOutput):
                answers[node_id] = outcome
            elif isinstance(outcome, MiniError):
                warnings.append(outcome.message)
            else:
                raise outcome
        return answers, warnings

    def _away(self, snapshot: Snapshot) -> list[str]:
        """A line for each node that has containers, it seems, and cannot be asked."""
        connected = set(self._nodes.connected())
        return [
            f"node {views.hostname(snapshot, node_id) or node_id} is not connected: its containers are not shown"
            for node_id, status in sorted(snapshot.node_statuses.items())
            if node_id in snapshot.nodes
            and node_id not in connected
            and status.state is not NodeState.UNKNOWN
        ]


def _archive_input(message: pb.CopyToInput) -> pb.StreamInput:
    return pb.StreamInput(end=True) if message.HasField("end") else pb.StreamInput(data=message.data)


async def merged(streams: Iterable[AsyncIterator[T]]) -> AsyncIterator[T]:
    """What any of them gives, as it comes; each waits until what it gave was taken."""
    pending: dict[asyncio.Task[T | None], AsyncIterator[T]] = {}

    def ask(stream: AsyncIterator[T]) -> None:
        pending[asyncio.ensure_future(anext(stream, None))] = stream

    for stream in streams:
        ask(stream)
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = pending.pop(task)
                item = task.result()
                if item is not None:
                    yield item
                    ask(stream)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
