"""Performs one step of a task with the runtime and the hooks, and tells the result as an event."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from minicommon.clock import Clock
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent import task_machine as machine
from miniworker.agent.container import container_config, readiness
from miniworker.agent.draining import Drain, drain_timeout_ns
from miniworker.agent.health.monitor import Change, Monitor, Watch
from miniworker.agent.health.policy import Verdict, policy_of, readiness_policy_of
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


@dataclass(frozen=True, slots=True)
class _Watches:
    """The checks of one task, kept from one WATCH to the next: what one of them tells must not set back the other."""

    health: Watch | None
    readiness: Watch | None


class ContainerExecutor:
    """The real one."""

    def __init__(
        self,
        runtime: Runtime,
        hook: TaskHook,
        monitor: Monitor,
        drain: Drain,
        *,
        clock: Clock,
        node_id: str,
        logins: Logins,
    ) -> None:
        self._runtime = runtime
        self._hook = hook
        self._monitor = monitor
        self._drain = drain
        self._clock = clock
        self._node_id = node_id
        self._watches: dict[str, _Watches] = {}
        self._logins = logins

    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        match step:
            case Step.CREATE:
                return await self._create(task)
            case Step.START:
                checked = await self._runtime.health_check(task.id) is not None
                pid = await self._runtime.start(task.id)
                return machine.Started(pid, checked, readied=readiness(task) is not None)
            case Step.WATCH:
                return await self._watch(task, progress)
            case Step.DRAIN:
                return await self._drained(task)
            case Step.STOP if progress.unhealthy and not progress.stranded:
                return await self._stop_unhealthy(task.id)
            case _ if step not in _INSTANT:
                await self._act(step, task, progress)
        return machine.Done(step)

    async def _watch(self, task: dispatch.AssignedTask, progress: Progress) -> Event:
        """Until it ends, or one of its checks has something to tell."""
        if task.id not in self._watches:
            self._watches[task.id] = await self._watches_of(task, progress)
        watches = self._watches[task.id]
        end = asyncio.ensure_future(self._runtime.wait(task.id))
        health = asyncio.ensure_future(watches.health.change()) if watches.health else None
        ready = asyncio.ensure_future(watches.readiness.change()) if watches.readiness else None
        futures: list[asyncio.Future[Any]] = [future for future in (end, health, ready) if future is not None]
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return machine.Exited(end.result())
            if health is not None and watches.health is not None and health.done():
                return _health_event(_take(watches.health, health.result()))
            assert ready is not None
            assert watches.readiness is not None
            return _readiness_event(_take(watches.readiness, ready.result()))
        finally:
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)

    async def _watches_of(self, task: dispatch.AssignedTask, progress: Progress) -> _Watches:
        """The checks of a task that has just been started, or was found running."""
        target = Target(task.id, task.attachments[0].address if task.attachments else "")
        running = progress.state == pb.TASK_STATE_RUNNING
        health = readied = None
        if check := await self._runtime.health_check(task.id):
            began = Verdict.HEALTHY if running else Verdict.STARTING
            health = self._monitor.watch(check.test, target, policy_of(check), began=began)
        if check := readiness(task):
            began = Verdict.UNHEALTHY if progress.not_ready else Verdict.HEALTHY
            began = began if running else Verdict.STARTING
            readied = self._monitor.watch(check.test, target, readiness_policy_of(check), began=began)
        return _Watches(health, readied)

    async def _drained(self, task: dispatch.AssignedTask) -> Event:
        timeout_ns = drain_timeout_ns(task.spec.container.drain_timeout_ns)
        left = await self._drain.open(task.id, timeout_ns=timeout_ns) if timeout_ns else 0
        return machine.Drained(self._clock.now_ns(), left)

    async def _act(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> None:
        match step:
            case Step.PULL:
                login = await self._logins.of(task)
                await self._runtime.pull(task.spec.container.image, login=login)
                await self._hook.wait_ready(task)
            case Step.CONNECT:
                await self._connect(task)
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

    async def _connect(self, task: dispatch.AssignedTask) -> None:
        changed = await self._hook.change(task, Prepared(container_config(task, node_id=self._node_id)))
        if changed is not None:
            self._watches.pop(task.id, None)  # they ask an address that may be another now
            with suppress(NoSuchContainerError):  # whoever watches it next tells so
                await self._runtime.write_names(changed.config)

    async def _stop(self, task_id: str, progress: Progress) -> None:
        if not progress.launched:
            return
        try:
            await self._runtime.stop(task_id)
        except NoSuchContainerError:
            return
        await self._drain.closing(task_id)

    async def _stop_unhealthy(self, task_id: str) -> Event:
        """With its exit code, where it still can be had."""
        try:
            await self._runtime.stop(task_id)
            exited = machine.Exited(await self._runtime.wait(task_id))
        except NoSuchContainerError:
            return machine.Done(Step.STOP)
        await self._drain.closing(task_id)
        return exited

    async def _clean(self, task_id: str, progress: Progress) -> None:
        self._watches.pop(task_id, None)
        if not progress.launched:
            await self._runtime.remove(task_id)  # it has no output that somebody may want to read
        await self._hook.cleanup(task_id)


def _take(watch: Watch, change: Change) -> Change:
    watch.told = change.verdict
    return change


def _readiness_event(change: Change) -> Event:
    return machine.Ready() if change.verdict is Verdict.HEALTHY else machine.NotReady(change.output)


def _health_event(change: Change) -> Event:
    return machine.Healthy() if change.verdict is Verdict.HEALTHY else machine.Unhealthy(change.output)
