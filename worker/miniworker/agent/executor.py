"""Performs one step of a task with the runtime and the hooks, and tells the result as an event."""

from __future__ import annotations

from typing import Protocol

from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.agent import task_machine as machine
from miniworker.agent.container import container_config
from miniworker.agent.hooks.api import Prepared, TaskHook
from miniworker.agent.task_machine import Event, Progress, Step
from miniworker.runtime.api import NoSuchContainerError, Runtime

_INSTANT = frozenset({Step.ACCEPT, Step.PREPARE, Step.LAUNCH})
"""Steps that only change the state, so that each state is reported before the work that follows it."""


class Executor(Protocol):
    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        """Do it. Raises MiniError."""


class ContainerExecutor:
    """The real one."""

    def __init__(self, runtime: Runtime, hook: TaskHook, *, node_id: str) -> None:
        self._runtime = runtime
        self._hook = hook
        self._node_id = node_id

    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        match step:
            case Step.CREATE:
                return await self._create(task)
            case Step.START:
                return machine.Started(await self._runtime.start(task.id))
            case Step.WATCH:
                return machine.Exited(await self._runtime.wait(task.id))
            case _ if step not in _INSTANT:
                await self._act(step, task, progress)
        return machine.Done(step)

    async def _act(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> None:
        match step:
            case Step.PULL:
                await self._runtime.pull(task.spec.container.image)
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

    async def _clean(self, task_id: str, progress: Progress) -> None:
        if not progress.launched:
            await self._runtime.remove(task_id)  # it has no output that somebody may want to read
        await self._hook.cleanup(task_id)
