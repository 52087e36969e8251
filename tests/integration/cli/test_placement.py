"""Where tasks go, from the command line to two workers and back: `minictl`, a real manager, scripted agents."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from miniproto.v1 import control_pb2, objects_pb2
from support.command_line import without_registry
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import PATIENCE, ScriptedAgent

from .conftest import MINICTL


@dataclass
class Site:
    """A manager whose own node takes no tasks, and the workers `east` and `west`."""

    manager: InProcess
    local: Client

    async def ctl(self, *arguments: str) -> str:
        """What `minictl` prints; it must succeed."""
        host = f"unix://{self.manager.home.paths.manager_socket}"
        process = await asyncio.create_subprocess_exec(
            str(MINICTL),
            "-H",
            host,
            *without_registry(arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, err.decode()) == (0, "")
        return out.decode()

    async def spread(self, service: str, wanted: dict[str, int]) -> None:
        """Wait until the service's tasks run on these nodes, and no others do."""
        request = control_pb2.WatchServiceRequest(ref=service)
        call = self.local.tasks.WatchService(request, timeout=PATIENCE)
        seen: Counter[str] = Counter()
        try:
            async for progress in call:
                seen = Counter(
                    view.node_hostname or "nowhere"
                    for view in progress.tasks
                    if view.task.desired_state == objects_pb2.TASK_STATE_RUNNING
                    and view.state in (objects_pb2.TASK_STATE_PENDING, objects_pb2.TASK_STATE_RUNNING)
                )
                if seen == wanted:
                    return
        finally:
            call.cancel()
        raise AssertionError(f"the watch ended with {seen}")


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    async with manager_in_process() as manager:
        (_, east), (_, west) = await manager.join_worker(), await manager.join_worker()
        async with (
            ScriptedAgent(east.channel, hostname="east", address="10.77.0.12"),
            ScriptedAgent(west.channel, hostname="west", address="10.77.1.12"),
        ):
            yield Site(manager, await manager.local())


async def test_a_constraint_that_no_node_satisfies_is_explained_and_a_label_helps() -> None:
    async with site() as here:
        await here.ctl("node", "update", "--label-add", "zone=us", "west")
        create = ("service", "create", "-d", "--name", "web", "--constraint", "node.labels.zone==eu")
        await here.ctl(*create, "whoami:1")
        await here.spread("web", {"nowhere": 1})
        error = await here.ctl(
            "service", "ps", "web", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}"
        )
        assert error.startswith("Pending ")
        assert error.endswith(
            '"no suitable node (scheduling constraints not satisfied on 2 nodes; '
            '1 node not available for new tasks)"\n'
        )

        text = await here.ctl("task", "why", "web.1")
        assert text.startswith("web.1 is pending: no suitable node (")
        assert "constraint node.labels.zone==eu: it has 'us'" in text
        (answer,) = json.loads(await here.ctl("task", "why", "--format", "json", "web.1"))
        reasons = {each["Hostname"]: (each["Filter"], each["Reason"]) for each in answer["Refusals"]}
        assert reasons == {
            "": ("ready", "it has never reported"),
            "east": ("constraint", "constraint node.labels.zone==eu: it has none"),
            "west": ("constraint", "constraint node.labels.zone==eu: it has 'us'"),
        }
        (help,) = answer["Help"]
        assert help == "minictl node update --label-add 'zone=eu' east"

        await here.ctl("node", "update", "--label-add", "zone=eu", "east")
        await here.spread("web", {"east": 1})
        assert (await here.ctl("task", "why", "web.1")).startswith("web.1 is running on east")


async def test_tasks_follow_a_label_and_a_constraint_that_change() -> None:
    async with site() as here:
        await here.ctl("node", "update", "--label-add", "zone=eu", "east")
        await here.ctl("node", "update", "--label-add", "zone=eu", "west")
        await here.ctl(
            *("service", "create", "-d", "--name", "web", "--replicas", "2"),
            *("--constraint", "node.labels.zone in (eu,us)", "whoami:1"),
        )
        await here.spread("web", {"east": 1, "west": 1})
        await here.ctl("node", "update", "--label-rm", "zone", "east")
        await here.spread("web", {"west": 2})
        moved = await here.ctl("service", "ps", "web", "--no-trunc", "--format", "{{.Node}} {{.Error}}")
        assert 'east "assigned node no longer meets constraints"' in moved.splitlines()
        await here.ctl(
            *("service", "update", "-d", "--constraint-rm", "node.labels.zone in (eu,us)"),
            *("--constraint-add", "node.ip==10.77.0.0/24", "web"),
        )
        await here.spread("web", {"east": 2})
        (service,) = json.loads(await here.ctl("service", "inspect", "web"))
        assert service["Spec"]["TaskTemplate"]["Placement"] == {"Constraints": ["node.ip==10.77.0.0/24"]}


async def test_a_maximum_per_node_and_bin_packing() -> None:
    async with site() as here:
        await here.ctl(
            *("service", "create", "-d", "--name", "web", "--replicas", "5"),
            *("--replicas-max-per-node", "2", "--placement-strategy", "binpack", "whoami:1"),
        )
        await here.spread("web", {"east": 2, "west": 2, "nowhere": 1})
        assert "4/5 (max 2 per node)" in await here.ctl("service", "ls")
        await here.ctl("service", "update", "-d", "--replicas-max-per-node", "4", "--replicas", "4", "web")
        await here.spread("web", {"east": 2, "west": 2})
        create = ("service", "create", "-d", "--name", "packed", "--replicas", "3")
        await here.ctl(*create, "--placement-strategy", "binpack", "whoami:1")
        await here.local.running("packed", 3)
        nodes = await here.ctl("service", "ps", "packed", "--format", "{{.Node}}")
        assert len(set(nodes.split())) == 1


async def test_a_drained_node_is_emptied_without_a_gap() -> None:
    async with site() as here:
        await here.ctl("service", "create", "-d", "--name", "web", "--replicas", "4", "whoami:1")
        await here.spread("web", {"east": 2, "west": 2})
        call = here.local.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web"), timeout=PATIENCE)
        watch = aiter(call)
        assert (await anext(watch)).service.running == 4
        await here.ctl("node", "update", "--availability", "drain", "east")
        most = 0
        async for progress in watch:
            assert progress.service.running >= 4
            most = max(most, progress.service.running)
            if {view.node_hostname for view in progress.tasks} == {"west"}:
                break
        call.cancel()
        assert most == 5  # one at a time
        await here.ctl("node", "update", "--availability", "active", "east")
        await here.spread("web", {"west": 4})


async def test_services_beside_and_apart_from_each_other() -> None:
    async with site() as here:
        await here.ctl("service", "create", "-d", "--name", "near", "--affinity", "db", "whoami:1")
        await here.spread("near", {"nowhere": 1})
        await here.ctl("service", "create", "-d", "--name", "db", "--constraint", "node.hostname==west", "x")
        await here.spread("near", {"west": 1})
        apart = ("service", "create", "-d", "--name", "apart", "--replicas", "2", "--anti-affinity", "db")
        await here.ctl(*apart, "whoami:1")
        await here.spread("apart", {"east": 2})
        await here.ctl(
            *("service", "update", "-d", "--constraint-rm", "node.hostname==west"),
            *("--constraint-add", "node.hostname==east", "db"),
        )
        await here.spread("db", {"nowhere": 1})  # east has tasks that want to be apart from it
        text = await here.ctl("task", "why", "db.1")
        assert "it has a task of apart, which wants to be apart from db" in text
        await here.ctl("service", "update", "-d", "--anti-affinity-rm", "db", "apart")
        await here.spread("db", {"east": 1})
