"""The modes from the command line to two workers and back: `minictl`, a real manager, scripted agents."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from miniproto.v1 import control_pb2, objects_pb2
from support.command_line import without_registry
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import ScriptedAgent

from .conftest import MINICTL


class Site:
    """A manager whose own node takes no tasks, and two workers."""

    def __init__(self, manager: InProcess, local: Client, agents: dict[str, ScriptedAgent]) -> None:
        self.local = local
        self.agents = agents
        self._host = f"unix://{manager.home.paths.manager_socket}"

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code of `minictl`, and what it printed."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(MINICTL), "-H", self._host, *without_registry(arguments), stdout=pipe, stderr=pipe
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ctl(self, *arguments: str) -> str:
        code, out, err = await self.run(*arguments)
        assert (code, err) == (0, "")
        return out


@asynccontextmanager
async def site(*, obliging: bool = True) -> AsyncIterator[Site]:
    async with manager_in_process() as manager:
        (east_id, east), (west_id, west) = await manager.join_worker(), await manager.join_worker()
        async with (
            ScriptedAgent(east.channel, hostname="east", obliging=obliging) as first,
            ScriptedAgent(west.channel, hostname="west", address="10.77.1.12", obliging=obliging) as second,
        ):
            yield Site(manager, await manager.local(), {east_id: first, west_id: second})


async def test_a_global_service_runs_on_every_worker() -> None:
    async with site() as here:
        out = await here.ctl("service", "create", "--mode", "global", "--name", "agent", "whoami:1")
        assert "overall progress: 2 out of 2 tasks\n" in out
        assert out.endswith("verify: Service converged\n")
        assert (await here.ctl("service", "ls", "--format", "{{.Mode}} {{.Replicas}}")) == "global 2/2\n"
        names = await here.ctl("service", "ps", "agent", "--format", "{{.Name}} {{.Node}}")
        assert {line.split()[0] for line in names.splitlines()} == {f"agent.{node}" for node in here.agents}
        assert {line.split()[1] for line in names.splitlines()} == {"east", "west"}
        code, _, err = await here.run("service", "scale", "agent=3")
        assert code == 1
        assert "scale can only be used with replicated or replicated-job mode" in err
        await here.ctl("node", "update", "--availability", "drain", "west")
        (_, west) = here.agents.values()
        await west.until(lambda: not west.wanted())
        assert (await here.ctl("service", "ls", "--format", "{{.Replicas}}")) in ("1/1\n", "2/1\n")


async def test_a_job_runs_to_its_end_and_again_when_it_is_changed() -> None:
    async with site() as here:
        create = ("service", "create", "--mode", "replicated-job", "--replicas", "4", "--max-concurrent", "2")
        out = await here.ctl(*create, "--name", "batch", "whoami:1")
        assert "job progress: 4 out of 4 complete\n" in out
        assert out.endswith("job complete\n")
        listed = ("service", "ls", "--format", "{{.Mode}} {{.Replicas}}")
        assert (await here.ctl(*listed)) == "replicated job 0/0 (4/4 completed)\n"
        assert (await here.ctl("service", "scale", "batch=2")).endswith("job complete\n")
        assert (await here.ctl(*listed)) == "replicated job 0/0 (2/2 completed)\n"
        await here.ctl("service", "update", "--force", "batch")
        (service,) = json.loads(await here.ctl("service", "inspect", "batch"))
        assert service["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}
        assert service["JobStatus"]["JobIteration"] == {"Index": 2}
        states = await here.ctl("service", "ps", "batch", "--format", "{{.DesiredState}}")
        assert set(states.split()) == {"Complete"}


async def test_a_global_job_runs_once_on_every_worker() -> None:
    async with site() as here:
        out = await here.ctl("service", "create", "--mode", "global-job", "--name", "once", "whoami:1")
        assert out.endswith("job complete\n")
        listed = await here.ctl("service", "ls", "--filter", "mode=global-job", "--format", "{{.Replicas}}")
        assert listed == "0/0 (2/2 completed)\n"


async def test_a_job_that_fails_for_good_says_so() -> None:
    async with site(obliging=False) as here:
        create = (
            "service",
            "create",
            "--mode",
            "global-job",
            "--name",
            "once",
            "--restart-condition",
            "none",
        )
        waiting = asyncio.create_task(here.run(*create, "whoami:1"))
        for agent in here.agents.values():
            await agent.until(lambda agent=agent: bool(agent.tasks()))  # type: ignore[misc]
            for task_id in agent.tasks():
                await agent.report(task_id, objects_pb2.TASK_STATE_FAILED, error="task: non-zero exit (3)")
        code, _, err = await waiting
        assert (code, err) == (1, "job failed: 2 out of 2 tasks failed and will not be tried again\n")


async def test_what_a_mode_cannot_obey_is_refused_and_what_loops_is_shown() -> None:
    async with site(obliging=False) as here:
        refused = (
            "service",
            "create",
            "-d",
            "--mode",
            "global",
            "--placement-pref",
            "spread=node.labels.zone",
        )
        code, _, err = await here.run(*refused, "whoami:1")
        assert code == 1
        assert "placement-pref can only be used with replicated or replicated-job mode" in err
        await here.ctl("service", "create", "-d", "--name", "web", "--restart-delay", "1h", "whoami:1")
        (holder,) = await _holders(here)
        (task_id,) = holder.tasks()
        await holder.report(task_id, objects_pb2.TASK_STATE_REJECTED, error="No such image: whoami:1")
        async for progress in here.local.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web")):
            if any(view.task.held for view in progress.tasks):
                break
        await holder.until(lambda: task_id not in holder.tasks())
        assert not any(agent.tasks() for agent in here.agents.values())  # nobody tries it before the delay
        shown = await here.ctl("service", "ps", "web", "--format", "{{.CurrentState}}|{{.Error}}")
        assert re.match(r'(Pending|New) .*\|"restart 1 in (59 minutes|About an hour)"\nRejected', shown, re.I)


async def _holders(here: Site) -> list[ScriptedAgent]:
    """The agents that have tasks, once one has."""
    waits = [
        asyncio.create_task(agent.until(lambda agent=agent: bool(agent.tasks())))  # type: ignore[misc]
        for agent in here.agents.values()
    ]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return [agent for agent in here.agents.values() if agent.tasks()]
