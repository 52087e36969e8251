"""Logs of services through a manager: real agents over mutual TLS, on runtimes in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from miniproto.v1 import control_pb2, objects_pb2
from miniproto.v1 import streams_pb2 as pb
from support.agents import Site, site
from support.manager import manager_in_process
from support.runtimes import LINES, RUNS

PATIENCE = 20.0


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Site]:
    async with manager_in_process() as manager, site(manager, tmp_path, 3) as running:
        yield running


class Reader:
    """What a client hears: (task, text) and warnings."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._sources: dict[int, str] = {}
        self.lines: list[tuple[str, str]] = []
        self.times: list[int] = []
        self.warnings: list[str] = []

    async def next(self) -> bool:
        response = await self._call.read()
        if response is grpc.aio.EOF:
            return False
        if response.HasField("source"):
            self._sources[response.source_number] = response.source.task_name
        for line in response.lines:
            self.lines.append((self._sources[response.source_number], line.data.decode()))
            self.times.append(line.time_ns)
        if response.warning:
            self.warnings.append(response.warning)
        return True

    async def rest(self) -> None:
        while await self.next():
            pass

    async def until(self, *wanted: tuple[str, str]) -> None:
        while not set(wanted) <= set(self.lines):
            assert await self.next(), self.lines


@asynccontextmanager
async def reading(site: Site, ref: str, *, task: bool = False, **options: Any) -> AsyncIterator[Reader]:
    request = pb.LogsRequest(ref=ref, task=task, options=pb.LogsQuery(**options))
    call = site.containers.Logs(request, timeout=PATIENCE)
    try:
        yield Reader(call)
    finally:
        call.cancel()


async def test_lines_of_all_nodes_come_in_the_order_of_their_times(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=3)
    expected = [("web.1", "up"), ("web.2", "up"), ("web.3", "up")]
    for number in range(30):
        view = tasks[number * 7 % 3]
        three.node(view.task.node_id).runtime.write(view.task.id, "stdout", str(number).encode())
        expected.append((f"web.{view.task.slot}", str(number)))
    async with reading(three, "web") as reader:
        await reader.rest()
    assert reader.times == sorted(reader.times)
    assert sorted(reader.lines[:3]) == expected[:3]
    assert reader.lines[3:] == expected[3:]
    assert reader.warnings == []


async def test_tail_and_times_are_those_of_each_task(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=2)
    for view in tasks:
        three.node(view.task.node_id).runtime.write(view.task.id, "stdout", b"last")
    async with reading(three, "web", tail=1) as reader:
        await reader.rest()
    assert sorted(reader.lines) == [("web.1", "last"), ("web.2", "last")]
    async with reading(three, "web", since_ns=max(reader.times) + 1) as later:
        await later.rest()
    assert later.lines == []


async def test_one_task_alone_and_what_is_none(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=2)
    async with reading(three, "web.2", task=True) as reader:
        await reader.rest()
    assert reader.lines == [("web.2", "up")]
    async with reading(three, tasks[0].task.id) as by_id:
        await by_id.rest()
    assert by_id.lines == [("web.1", "up")]
    for task, text in ((False, "no such task or service: nothing"), (True, "no such task: nothing")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with reading(three, "nothing", task=task) as nobody:
                await nobody.rest()
        assert caught.value.details() == text
    with pytest.raises(grpc.aio.AioRpcError):
        async with reading(three, "web", task=True) as nobody:
            await nobody.rest()


async def test_dead_tasks_are_heard_while_their_history_is_kept(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    three.node(view.task.node_id).runtime.finish(view.task.id, 1)
    await _replaced(three, "web", view.task.id)
    async with reading(three, "web") as reader:
        await reader.rest()
    assert reader.lines == [("web.1", "up"), ("web.1", "up")]


async def test_a_follower_hears_new_tasks_and_ends_with_the_service(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    async with reading(three, "web", follow=True) as reader:
        await reader.until(("web.1", "up"))
        await three.local.services.Scale(control_pb2.ScaleServiceRequest(ref="web", replicas=3))
        await reader.until(("web.2", "up"), ("web.3", "up"))
        three.node(view.task.node_id).runtime.write(view.task.id, "stdout", b"more")
        await reader.until(("web.1", "more"))
        await three.local.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
        await reader.rest()
    assert reader.lines.count(("web.1", "up")) == 1
    assert reader.lines.count(("web.2", "bye")) == 1
    assert reader.warnings == []


async def test_a_follower_of_a_task_ends_with_it(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    async with reading(three, "web.1", task=True, follow=True) as reader:
        await reader.until(("web.1", "up"))
        three.node(view.task.node_id).runtime.finish(view.task.id, 0)
        await reader.rest()
    assert reader.lines == [("web.1", "up")]


async def test_a_follower_hears_the_task_that_takes_the_place_of_another(three: Site) -> None:
    (view,) = await three.create("web", RUNS)
    async with reading(three, "web", follow=True) as reader:
        await reader.until(("web.1", "up"))
        three.node(view.task.node_id).runtime.finish(view.task.id, 1)
        while reader.lines.count(("web.1", "up")) < 2:
            assert await reader.next()


async def test_a_node_that_is_away_costs_a_warning_and_its_own_lines(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=3)
    lost = three.node(tasks[1].task.node_id)
    await lost.stop()
    async with reading(three, "web") as reader:
        await reader.rest()
    assert sorted(reader.lines) == [("web.1", "up"), ("web.3", "up")]
    assert reader.warnings == [f"node {lost.hostname} is not connected to this manager"]


async def test_lines_go_on_where_they_broke_off_when_the_node_is_back(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=3)
    lost = three.node(tasks[1].task.node_id)
    async with reading(three, "web", follow=True) as reader:
        await reader.until(("web.1", "up"), ("web.2", "up"), ("web.3", "up"))
        await lost.stop()
        while not reader.warnings:
            assert await reader.next()
        lost.runtime.write(tasks[1].task.id, "stdout", b"meanwhile")
        await lost.start()
        await reader.until(("web.2", "meanwhile"))
    assert reader.lines.count(("web.2", "up")) == 1
    assert reader.warnings == [f"node {lost.hostname} went away: the logs of its tasks are incomplete"]


async def test_ten_tasks_on_three_nodes_with_one_killed_midway(three: Site) -> None:
    tasks = await three.create("web", RUNS, replicas=10)
    assert len({view.task.node_id for view in tasks}) == 3
    lost = three.node(tasks[0].task.node_id)
    ups = [(f"web.{slot}", "up") for slot in range(1, 11)]
    async with reading(three, "web", follow=True) as reader:
        await reader.until(*ups)
        await lost.stop()
        living = [view for view in tasks if view.task.node_id != lost.node_id]
        for view in living:
            three.node(view.task.node_id).runtime.write(view.task.id, "stdout", b"after")
        await reader.until(*((f"web.{view.task.slot}", "after") for view in living))
        while not reader.warnings:
            assert await reader.next()
    assert [lost.hostname in warning for warning in reader.warnings] == [True]


async def test_a_job_that_is_done_is_heard(three: Site) -> None:
    spec = objects_pb2.ServiceSpec(name="job", replicas=1, mode=objects_pb2.SERVICE_MODE_REPLICATED_JOB)
    spec.task.container.image = "busybox:latest"
    spec.task.container.command.extend(LINES)
    await three.local.services.Create(control_pb2.CreateServiceRequest(spec=spec))
    async with reading(three, "job", follow=True) as reader:
        await reader.until(*(("job.1", text) for text in "1234"))


async def _replaced(site: Site, service: str, task_id: str) -> None:
    """Wait until another task of the service runs."""
    request = control_pb2.WatchServiceRequest(ref=service)
    call = site.local.tasks.WatchService(request, timeout=PATIENCE)
    async for progress in call:
        if any(v.task.id != task_id and v.state == objects_pb2.TASK_STATE_RUNNING for v in progress.tasks):
            break
    call.cancel()
    await asyncio.sleep(0)
