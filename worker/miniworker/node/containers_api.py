"""The Containers service of a node that is no manager: its own containers, for root on this machine.

Where there is a manager, its service answers for all nodes; a worker has no right to the other nodes' containers, but
its own it can always be asked about, also while no manager can be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import grpc
from minicommon.container_filters import filter_containers
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from minicommon.log import fields
from miniproto.v1 import streams_pb2 as pb
from miniproto.v1 import streams_pb2_grpc

from miniworker.agent.streams.api import Handlers, Inputs
from miniworker.node import proxy

logger = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SERVICE = "/mini.v1.Containers/"


class LocalContainers(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Add it before the proxy: it takes the service's calls while `is_worker` says so."""

    def __init__(self, service: ContainersService, is_worker: Callable[[], bool]) -> None:
        self._is_worker = is_worker
        self._handlers: dict[str, Any] = {}
        streams_pb2_grpc.add_ContainersServicer_to_server(service, self)  # type: ignore[no-untyped-call,arg-type,unused-ignore]

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """What the generated code calls on a server."""
        self._handlers = {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Likewise; the other form has them already."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if not handler_call_details.method.startswith(SERVICE) or not self._is_worker():
            return None
        return self._handlers.get(handler_call_details.method)


class ContainersService(streams_pb2_grpc.ContainersServicer):
    """`handlers` gives those of the present membership."""

    def __init__(self, handlers: Callable[[], Handlers]) -> None:
        self._handlers = handlers

    async def List(  # noqa: N802
        self, request: pb.ListContainersRequest, context: Context
    ) -> pb.ListContainersResponse:
        filters = {each.key: list(each.values) for each in request.filters}
        found = filter_containers(await self._all(), filters, all=request.all)
        return pb.ListContainersResponse(containers=found)

    async def Inspect(  # noqa: N802
        self, request: pb.InspectContainerRequest, context: Context
    ) -> pb.InspectedContainer:
        container = await self._find(request.ref)
        return (await self._one("inspect", pb.InspectQuery(container_id=container.id))).inspected

    async def Logs(  # noqa: N802
        self, request: pb.LogsRequest, context: Context
    ) -> AsyncIterator[pb.LogsResponse]:
        container = await self._find(request.ref)
        query = pb.LogsQuery()
        query.CopyFrom(request.options)
        query.container_id = container.id
        source = pb.TaskLogs(task_id=container.id, task_name=container.task_name, details=container.labels)
        response = pb.LogsResponse(source_number=1, source=source)
        async for output in self._outputs("logs", query, Inputs()):
            response.lines.extend(output.logs.lines)
            yield response
            response = pb.LogsResponse(source_number=1)

    async def Top(self, request: pb.TopRequest, context: Context) -> pb.ProcessTable:  # noqa: N802
        container = await self._find(request.ref)
        query = pb.TopQuery(container_id=container.id, arguments=request.arguments)
        return (await self._one("top", query)).processes

    async def Stats(  # noqa: N802
        self, request: pb.StatsRequest, context: Context
    ) -> AsyncIterator[pb.StatsResponse]:
        wanted = [(await self._find(ref)).id for ref in request.refs]
        query = pb.StatsQuery(container_ids=wanted, once=request.once)
        async for output in self._outputs("stats", query, Inputs()):
            yield pb.StatsResponse(containers=output.usage.containers)

    async def Exec(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ExecInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await _first(request_iterator)).start
        if not start.options.command:
            raise InvalidArgumentError("options.command: a command to run must be given")
        query = pb.ExecQuery()
        query.CopyFrom(start.options)
        query.container_id = await self._recorded("exec", start.ref)
        async for output in self._talk("exec", query, request_iterator):
            yield output

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await _first(request_iterator)).start
        query = pb.AttachQuery()
        query.CopyFrom(start.options)
        query.container_id = await self._recorded("attach", start.ref)
        async for output in self._talk("attach", query, request_iterator):
            yield output

    async def Forward(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ForwardInput], context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        start = (await _first(request_iterator)).start
        query = pb.ForwardQuery(container_id=await self._recorded("forward", start.ref), port=start.port)
        async for output in self._talk("forward", query, request_iterator):
            yield output

    async def StatPath(self, request: pb.StatPathRequest, context: Context) -> pb.PathInfo:  # noqa: N802
        container = await self._find(request.ref)
        query = pb.StatPathQuery(container_id=container.id, path=request.path)
        return (await self._one("stat_path", query)).path

    async def CopyFrom(  # noqa: N802
        self, request: pb.CopyFromRequest, context: Context
    ) -> AsyncIterator[pb.StreamOutput]:
        query = pb.CopyFromQuery(
            container_id=await self._recorded("copy from", request.ref),
            path=request.path,
            follow_link=request.follow_link,
        )
        async for output in self._outputs("copy_from", query, Inputs()):
            yield output

    async def CopyTo(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.CopyToInput], context: Context
    ) -> pb.CopyToResponse:
        start = (await _first(request_iterator)).start
        query = pb.CopyToQuery(
            container_id=await self._recorded("copy to", start.ref),
            path=start.path,
            keep_owners=start.keep_owners,
        )
        async for _ in self._talk(
            "copy_to", query, (_archive_input(each) async for each in request_iterator)
        ):
            pass
        return pb.CopyToResponse()

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommittedImage:  # noqa: N802
        query = pb.CommitQuery()
        query.CopyFrom(request.options)
        query.container_id = await self._recorded("commit", request.ref)
        return (await self._one("commit", query)).committed

    async def Run(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RunInput], context: Context
    ) -> AsyncIterator[pb.RunOutput]:
        refused = True
        if refused:
            raise FailedPreconditionError(proxy.NOT_A_MANAGER)
        yield pb.RunOutput()

    # --- inside ---

    async def _all(self) -> list[pb.ContainerInfo]:
        found = list((await self._one("list", pb.ListQuery())).containers.containers)
        for each in found:
            each.task_name = each.name.removesuffix(f".{each.id}")
            each.service_name = each.labels.get("com.docker.swarm.service.name", "")
            each.node_id = each.labels.get("com.docker.swarm.node.id", "")
        return found

    async def _find(self, ref: str) -> pb.ContainerInfo:
        """By id or its beginning, the container's name or the task's: the newest of a name. Raises NotFoundError."""
        newest = sorted(await self._all(), key=lambda each: -each.created_at_ns)
        named = [each for each in newest if ref in (each.id, each.name, each.task_name)]
        found = named or [each for each in newest if ref and each.id.startswith(ref)]
        if not found:
            raise NotFoundError(f"No such container on this node: {ref}")
        if not named and len(found) > 1:
            raise InvalidArgumentError(f"container {ref} is ambiguous ({len(found)} matches found)")
        return found[0]

    async def _recorded(self, action: str, ref: str) -> str:
        """The container's id; who talks to it is written down."""
        container = await self._find(ref)
        extra = fields(action=action, caller="local", task_id=container.id, task=container.task_name)
        logger.info("Container command.", extra=extra)
        return container.id

    async def _one(self, kind: str, query: Any) -> pb.StreamOutput:
        async for output in self._outputs(kind, query, Inputs()):
            return output
        raise NotFoundError("nothing was found")

    async def _outputs(self, kind: str, query: Any, inputs: Inputs) -> AsyncIterator[pb.StreamOutput]:
        outputs: Any = self._handlers()[kind](query, inputs)
        async with aclosing(outputs):
            async for output in outputs:
                yield output

    async def _talk(
        self, kind: str, query: Any, messages: AsyncIterator[Any]
    ) -> AsyncIterator[pb.StreamOutput]:
        inputs = Inputs()

        async def feed() -> None:
            async for message in messages:
                await inputs.put(message.input)

        feeding = asyncio.create_task(feed(), name="local input")
        try:
            async for output in self._outputs(kind, query, inputs):
                yield output
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding


def _archive_input(message: pb.CopyToInput) -> pb.ForwardInput:
    """As a message that has an input, as those of the other calls have."""
    passed = pb.StreamInput(end=True) if message.HasField("end") else pb.StreamInput(data=message.data)
    return pb.ForwardInput(input=passed)


async def _first(messages: AsyncIterator[Any]) -> Any:
    message = await anext(messages, None)
    if message is None or not message.HasField("start"):
        raise InvalidArgumentError("message: the first one must be start")
    return message
