"""Performs one step of a task with the runtime and the hooks, and tells the result as an event."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent import task_machine as machine
from miniworker.agent.container import container_config
from miniworker.agent.health.monitor import Change, Monitor
from miniworker.agent.health.policy import Verdict
from miniworker.agent.health.probes import Target
from miniworker.agent.hooks.api import Prepared, TaskHook
from miniworker.agent.logins import Logins
from miniworker.agent.task_machine import Event, Progress, Step
from miniworker.runtime.api import NoSuchContainerError, Runtime

_INSTANT = frozenset({Step.ACCEPT, Step.PREPARE, Step.LAUNCH})
"""Steps that only change the state, so that each state is reported before the work that follows it."""


class Executor(Protocol):
    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        """Do it. Raises MiniError."""


class ContainerExecutor:
    """The real one."""

    def __init__(
        self, runtime: Runtime, hook: TaskHook, monitor: Monitor, *, node_id: str, logins: Logins
    ) -> None:
        self._runtime = runtime
        self._hook = hook
        self._monitor = monitor
        self._node_id = node_id
        self._logins = logins

    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        match step:
            case Step.CREATE:
                return await self._create(task)
            case Step.START:
                checked = await self._runtime.health_check(task.id) is not None
                return machine.Started(await self._runtime.start(task.id), checked)
            case Step.WATCH:
                return await self._watch(task, progress)
            case Step.STOP if progress.unhealthy:
                return await self._stop_unhealthy(task.id)
            case _ if step not in _INSTANT:
                await self._act(step, task, progress)
        return machine.Done(step)

    async def _watch(self, task: dispatch.AssignedTask, progress: Progress) -> Event:
        """Until it ends, or its health changes."""
        check = await self._runtime.health_check(task.id)
        end = asyncio.ensure_future(self._runtime.wait(task.id))
        watched: set[asyncio.Future[Any]] = {end}
        if check is not None:
            target = Target(task.id, task.attachments[0].address if task.attachments else "")
            healthy = progress.state == pb.TASK_STATE_RUNNING
            watched.add(asyncio.ensure_future(self._monitor.change(check, target, healthy=healthy)))
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return machine.Exited(end.result())
            (change,) = watched - {end}
            return _health_event(change.result())
        finally:
            for future in watched:
                future.cancel()
            await asyncio.gather(*watched, return_exceptions=True)

    async def _act(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> None:
        match step:
            case Step.PULL:
                login = await self._logins.of(task)
                await self._runtime.pull(task.spec.container.image, login=login)
                await self._hook.wait_ready(task)
            case Step.STOP:
                await self._stop(task.id, progress)
            case Step.CLEAN:
                await self._clean(task.id, progress)
            case Step.REMOVE:
                await self._runtime.remove(task.id)

    async def _create(self, task: dispatch.AssignedTask) -> Event:
        prepared = await self._hook.prepare(task, Prepared(container_config(task, node_id=self._node_id)))
        await self._runtime.create(prepared.config)
        return machine.Created(container_id=task.id, host_ports=prepared.host_ports)

    async def _stop(self, task_id: str, progress: Progress) -> None:
        if not progress.launched:
            return
        try:
            await self._runtime.stop(task_id)
        except NoSuchContainerError:
            return

    async def _stop_unhealthy(self, task_id: str) -> Event:
        """With its exit code, where it still can be had."""
        try:
            await self._runtime.stop(task_id)
            return machine.Exited(await self._runtime.wait(task_id))
        except NoSuchContainerError:
            return machine.Done(Step.STOP)

    async def _clean(self, task_id: str, progress: Progress) -> None:
        if not progress.launched:
            await self._runtime.remove(task_id)  # it has no output that somebody may want to read
        await self._hook.cleanup(task_id)


def _health_event(change: Change) -> Event:
    return machine.Healthy() if change.verdict is Verdict.HEALTHY else machine.Unhealthy(change.output)
