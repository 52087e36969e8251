"""`minictl run`: a service of one task that runs once, with the client attached to it, and what becomes of it after.

Everything that is a service's is the same here: placement, networks, limits, the reasons why it does not start. The
manager that the client talks to looks after it; when that is gone, any other does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NoReturn

from grpc import aio
from minicommon.errors import (
    ConflictError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from minicommon.log import fields
from miniproto.v1 import control_pb2, objects_pb2
from miniproto.v1 import streams_pb2 as pb

from minimanager.domain.objects import NodeState, Service, Task, TaskState
from minimanager.domain.one_off import LABEL, OneOff, one_off
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.node_streams import NodeStreams
from minimanager.rpc.requests import check, find_network
from minimanager.rpc.services import ServicesServicer
from minimanager.rpc.splice import record, spliced
from minimanager.store.cache import Subscription

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]

GONE_SECONDS = 5.0
"""How long the end of a call waits for its container's name to be free again."""


class OneOffs:
    """Runs containers for clients. `run_forever` must be going on, too: it removes what is to be removed."""

    def __init__(self, core: Core, nodes: NodeStreams, services: ServicesServicer) -> None:
        self._core = core
        self._nodes = nodes
        self._services = services
        self._attached: set[str] = set()
        self._known: set[str] = set()
        self._wake = asyncio.Event()

    # --- one client ---

    async def run(
        self, start: pb.RunStart, inputs: AsyncIterator[pb.StreamInput], context: Context
    ) -> AsyncGenerator[pb.RunOutput, None]:
        """Everything from the service to the exit of its process."""
        check(start)
        run_id = self._core.new_id()
        spec = await self._spec(start, run_id)
        self._attached.add(run_id)
        try:
            request = control_pb2.CreateServiceRequest(spec=spec)
            service_id = (await self._services.Create(request, context)).id
            with self._core.cache.subscribe() as changes:
                async for output in self._until_started(changes, service_id):
                    yield output
            if not start.detach:
                async for output in self._talk(service_id, start, inputs, context):
                    yield output
        finally:
            self._attached.discard(run_id)
            self._wake.set()
        if start.remove and not start.detach:
            await self._name_free(service_id)

    async def _spec(self, start: pb.RunStart, run_id: str) -> objects_pb2.ServiceSpec:
        """What the client asked for, as the service of one task that it becomes. Raises for what it cannot be."""
        spec = objects_pb2.ServiceSpec()
        spec.CopyFrom(start.spec)
        spec.mode = objects_pb2.SERVICE_MODE_REPLICATED_JOB
        spec.replicas = 1
        spec.task.restart.condition = objects_pb2.RESTART_CONDITION_NONE
        spec.task.container.open_stdin = start.stdin
        how = OneOff(self._core.node_id, run_id, attached=not start.detach, remove=start.remove)
        spec.labels[LABEL] = str(how)
        if any(port.publish_mode != objects_pb2.PUBLISH_MODE_HOST for port in spec.ports):
            raise InvalidArgumentError(
                "ports: a container of its own can only have ports of the host it runs on (mode=host)"
            )
        snapshot = await self._core.read()
        for use in spec.task.networks:
            network = find_network(snapshot, use.network)
            if not network.spec.attachable:
                raise PermissionDeniedError(
                    f"Could not attach to network {use.network}: network {network.spec.name} not manually attachable"
                )
        if not spec.placement.constraints:
            spec.placement.constraints.extend(await self._where(spec.task.container.image))
        return spec

    async def _where(self, image: str) -> list[str]:
        """A constraint to the nodes that have the image, when they have it from no registry: nobody else can."""
        query = pb.NodeRequest(image=pb.ImageQuery(reference=image))
        node_ids = self._nodes.connected()
        answers = await asyncio.gather(
            *(self._nodes.ask(node_id, query) for node_id in node_ids), return_exceptions=True
        )
        having = [
            node_id
            for node_id, answer in zip(node_ids, answers, strict=True)
            if isinstance(answer, pb.StreamOutput) and answer.image.present and answer.image.local
        ]
        if not having or len(having) == len(node_ids):
            return []
        if len(having) == 1:
            return [f"node.id=={having[0]}"]
        return [f"node.id in ({','.join(sorted(having))})"]

    async def _until_started(self, changes: Subscription, service_id: str) -> AsyncIterator[pb.RunOutput]:
        """Until the task's process has been started, or could not be, for which this raises."""
        told_id, told = "", ""
        while True:
            snapshot = self._core.cache.snapshot()
            task = _task(snapshot, service_id)
            if task is not None and not told_id:
                told_id = task.id
                yield pb.RunOutput(task_id=told_id)
            if task is not None:
                state = snapshot.state(task)
                if state >= TaskState.RUNNING:
                    _raise_unless_started(snapshot, task)
                    return
                why = "" if task.node_id else task.error
                if why and why != told:
                    told = why
                    yield pb.RunOutput(progress=why)
            await anext(changes, None)

    async def _talk(
        self,
        service_id: str,
        start: pb.RunStart,
        inputs: AsyncIterator[pb.StreamInput],
        context: Context,
    ) -> AsyncIterator[pb.RunOutput]:
        task = _task(self._core.cache.snapshot(), service_id)
        if task is None:
            raise NotFoundError("the container was removed before its process was attached to")
        record(context, "run", task, image=task.spec.container.image, stdin=start.stdin)
        query = pb.AttachQuery(container_id=task.id, stdin=start.stdin, from_start=True)
        if start.HasField("size"):
            query.size.CopyFrom(start.size)
        async with self._nodes.open(task.node_id, pb.NodeRequest(attach=query)) as stream:
            async for output in spliced(stream, inputs):
                yield pb.RunOutput(output=output)

    async def _name_free(self, service_id: str) -> None:
        """Wait until the service lets go of its name: who runs the same again must not be refused."""
        with self._core.cache.subscribe() as changes:
            try:
                async with asyncio.timeout(GONE_SECONDS):
                    while _is_present(self._core.cache.snapshot().services.get(service_id)):
                        await changes.next()
            except (TimeoutError, StopAsyncIteration):
                return

    # --- all of them ---

    async def run_forever(self) -> NoReturn:
        """Remove those that have ended, or whose client has gone, where `--rm` asked for it."""
        with self._core.cache.subscribe() as changes:
            self._known.update(
                key for key, service in self._core.cache.snapshot().services.items() if one_off(service)
            )
            following = asyncio.create_task(self._follow(changes), name="one-offs: changes")
            try:
                while True:
                    self._wake.clear()
                    await self._remove_all()
                    waking = asyncio.create_task(self._wake.wait(), name="one-offs: wake")
                    await asyncio.wait({waking, following}, return_when=asyncio.FIRST_COMPLETED)
                    waking.cancel()
                    if following.done():
                        following.result()
            finally:
                following.cancel()

    async def _follow(self, changes: Subscription) -> None:
        async for change_set in changes:
            for change in change_set.changes:
                if isinstance(change.new, Service) and one_off(change.new):
                    self._known.add(change.id)
            if self._known:
                self._wake.set()

    async def _remove_all(self) -> None:
        snapshot = self._core.cache.snapshot()
        self._known = {key for key in self._known if key in snapshot.services}
        for service_id in sorted(self._known):
            service = snapshot.services[service_id]
            if service.removing or not self._is_over(snapshot, service):
                continue
            try:
                await self._services.remove(service_id)
            except (ConflictError, FailedPreconditionError, NotFoundError):
                continue  # somebody else removes it
            except (UnavailableError, DeadlineError, ResourceExhaustedError) as error:
                logger.warning(
                    "A container that has ended could not be removed; it will be tried again.",
                    extra=fields(service_id=service_id, error=error.message),
                )

    def _is_over(self, snapshot: Snapshot, service: Service) -> bool:
        """Whether it is for this manager to remove the service now."""
        how = one_off(service)
        if how is None or not how.remove or how.run_id in self._attached:
            return False
        if how.manager_id != self._core.node_id and _lives(snapshot, how.manager_id):
            return False
        if how.attached:
            return True
        task = _task(snapshot, service.id)
        return task is not None and snapshot.state(task).finished


def _task(snapshot: Snapshot, service_id: str) -> Task | None:
    tasks = snapshot.of_service(service_id).values()
    return max(tasks, key=lambda task: (task.meta.created_at_ns, task.id), default=None)


def _raise_unless_started(snapshot: Snapshot, task: Task) -> None:
    """Raises FailedPreconditionError with the reason when the task has ended without a process of its own."""
    view = views.task(snapshot, task)
    ran = snapshot.state(task) in (TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN)
    if not ran and not view.status.exit_code:
        raise FailedPreconditionError(view.error or "the container could not be started")


def _lives(snapshot: Snapshot, node_id: str) -> bool:
    status = snapshot.node_statuses.get(node_id)
    return node_id in snapshot.nodes and status is not None and status.state is not NodeState.DOWN


def _is_present(service: Service | None) -> bool:
    return service is not None and not service.removing
