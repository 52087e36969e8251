"""Tasks: what the control loops made of the services, and what the nodes report of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from minicommon.errors import UnavailableError
from miniproto.v1 import control_pb2, control_pb2_grpc

from minimanager.decide.scheduler.why import why
from minimanager.domain.filters import filter_tasks
from minimanager.domain.objects import Task
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, filters_of, find_service, find_task
from minimanager.store.cache import ChangeSet, Subscription

Context = aio.ServicerContext[Any, Any]


class TasksServicer(control_pb2_grpc.TasksServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._watches: set[Subscription] = set()

    def close(self) -> None:
        """The manager stops: whoever watches is told to ask another."""
        for watch in tuple(self._watches):
            watch.close()

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.TaskView:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return views.task(snapshot, find_task(snapshot, request.ref))

    async def List(self, request: control_pb2.ListRequest, context: Context) -> control_pb2.ListTasksResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return control_pb2.ListTasksResponse(
            tasks=[
                views.task(snapshot, task) for task in filter_tasks(snapshot, filters_of(request.filters))
            ],
            revision=snapshot.revision,
        )

    async def Why(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.WhyResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        task = find_task(snapshot, request.ref)
        return views.why(snapshot, task, why(snapshot, task, self._core.clock.now_ns()))

    async def WatchService(
        self, request: control_pb2.WatchServiceRequest, context: Context
    ) -> AsyncIterator[control_pb2.ServiceProgress]:
        """The service with its live tasks, now and after each change, until it is gone.

        While a message is being sent changes gather; the next message has them all.
        """
        check(request)
        snapshot = await self._core.read(request.min_revision)
        service_id = find_service(snapshot, request.ref).id
        with self._core.cache.subscribe() as changes:
            self._watches.add(changes)
            try:
                async for progress in self._follow(changes, service_id):
                    yield progress
            finally:
                self._watches.discard(changes)

    async def _follow(
        self, changes: Subscription, service_id: str
    ) -> AsyncIterator[control_pb2.ServiceProgress]:
        while True:
            snapshot = self._core.cache.snapshot()
            progress = _progress(snapshot, service_id)
            watched = _watched(snapshot, service_id)
            yield progress
            if progress.removed:
                return
            await _change(changes, service_id, watched)


async def _change(changes: Subscription, service_id: str, watched: frozenset[str]) -> None:
    """Return when something changed that the progress shows."""
    async for change_set in changes:
        if _concerns(change_set, service_id, watched):
            return
    raise UnavailableError("the manager is stopping")


def _progress(snapshot: Snapshot, service_id: str) -> control_pb2.ServiceProgress:
    service = snapshot.services.get(service_id)
    if service is None:
        return control_pb2.ServiceProgress(revision=snapshot.revision, removed=True)
    return control_pb2.ServiceProgress(
        service=views.service(snapshot, service),
        tasks=[views.task(snapshot, task) for task in views.live_tasks(snapshot, service_id)],
        stopped=[views.task(snapshot, task) for task in views.stopped_tasks(snapshot, service_id)],
        revision=snapshot.revision,
    )


def _concerns(change_set: ChangeSet, service_id: str, watched: frozenset[str]) -> bool:
    """Whether the progress may look different: the service, its tasks, or a node that has some of them."""
    for change in change_set.changes:
        if change.id in watched:
            return True
        if any(isinstance(side, Task) and side.service_id == service_id for side in (change.old, change.new)):
            return True
    return False


def _watched(snapshot: Snapshot, service_id: str) -> frozenset[str]:
    """Ids whose objects the progress shows: a status has the id of its task, or of its node."""
    tasks = snapshot.of_service(service_id)
    return frozenset((service_id, *tasks, *(task.node_id for task in tasks.values())))
