"""Updates that fail, from the command line to a worker and back: `minictl`, a real manager, a scripted agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from miniproto.v1 import control_pb2, dispatcher_pb2, objects_pb2
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import PATIENCE, RUN, ScriptedAgent

from .conftest import MINICTL

BAD = "FATE=bad"


class Site:
    """A manager whose own node takes no tasks, and one worker."""

    def __init__(self, manager: InProcess, local: Client, agent: ScriptedAgent) -> None:
        self.local = local
        self.agent = agent
        self._host = f"unix://{manager.home.paths.manager_socket}"

    async def code(self, *arguments: str) -> int:
        """The exit code of `minictl`."""
        process = await asyncio.create_subprocess_exec(
            str(MINICTL), "-H", self._host, *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        return await asyncio.wait_for(process.wait(), 60)

    async def service(self, name: str = "web") -> objects_pb2.Service:
        return (await self.local.services.Get(control_pb2.GetRequest(ref=name))).service

    async def published(self, port: int) -> None:
        """Wait until the service has this port and no other."""
        call = self.local.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web"), timeout=PATIENCE)
        async for progress in call:
            if [each.published_port for each in progress.service.service.ports] == [port]:
                break
        call.cancel()

    async def publish(self, name: str, port: int) -> None:
        """Create a service on the port. Raises AioRpcError when another one has it."""
        spec = objects_pb2.ServiceSpec(name=name, task=(await self.service()).spec.task)
        spec.ports.add(target_port=80, published_port=port)
        await self.local.services.Create(control_pb2.CreateServiceRequest(spec=spec))


@asynccontextmanager
async def site(*bad: int) -> AsyncIterator[Site]:
    """The worker reports the states `bad` of a task with BAD in its environment, and runs all others."""

    def fate(task: dispatcher_pb2.AssignedTask) -> tuple[int, ...]:
        return bad if BAD in task.spec.container.env else RUN

    async with manager_in_process() as manager:
        _, worker = await manager.join_worker()
        async with ScriptedAgent(worker.channel) as agent:
            agent.fate = fate
            yield Site(manager, await manager.local(), agent)


FAST = ("--update-monitor", "1ms", "--rollback-monitor", "1ms")


async def test_an_update_that_does_not_come_forward_exits_with_124() -> None:
    async with site(objects_pb2.TASK_STATE_PREPARING) as here:
        create = ("service", "create", "-q", "--name", "web", *FAST, "whoami:1")
        assert await here.code(*create) == 0
        code = await here.code(
            "service", "update", "-q", "--env-add", BAD, "--update-deadline", "300ms", "web"
        )
        assert code == 124
        shown = await here.local.services.Get(control_pb2.GetRequest(ref="web"))
        assert shown.rollout.message == "update paused because it has made no progress for 300ms"
        assert await here.code("service", "rollback", "-q", "web") == 0


async def test_a_rollback_by_itself_moves_the_ports_back() -> None:
    async with site(objects_pb2.TASK_STATE_FAILED) as here:
        create = ("service", "create", "-q", "--name", "web", "-p", "8080:80", *FAST, "whoami:1")
        assert await here.code(*create) == 0
        change = ("--publish-rm", "80", "--publish-add", "9090:80", "--env-add", BAD)
        code = await here.code(
            "service", "update", "-q", *change, "--update-failure-action", "rollback", "web"
        )
        assert code == 2
        assert [port.published_port for port in (await here.service()).ports] == [8080]
        with pytest.raises(grpc.aio.AioRpcError, match="8080"):
            await here.publish("thief", 8080)
        await here.publish("heir", 9090)


async def test_a_rollback_by_itself_does_not_take_a_port_that_another_service_has() -> None:
    """Nothing to go back to is a pause, not a theft."""
    async with site(objects_pb2.TASK_STATE_PREPARING) as here:
        create = ("service", "create", "-q", "--name", "web", "-p", "8080:80", *FAST, "whoami:1")
        assert await here.code(*create) == 0
        change = ("--publish-rm", "80", "--publish-add", "9090:80", "--env-add", BAD)
        actions = ("--update-failure-action", "rollback", "--update-deadline", "2s")
        updating = asyncio.create_task(here.code("service", "update", "-q", *change, *actions, "web"))
        await here.published(9090)
        await here.publish("heir", 8080)
        assert await updating == 124
        assert [port.published_port for port in (await here.service()).ports] == [9090]
        shown = await here.local.services.Get(control_pb2.GetRequest(ref="web"))
        assert shown.rollout.message.endswith("nothing to go back to")
