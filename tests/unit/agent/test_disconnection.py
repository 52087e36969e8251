"""Tasks on a node that has no manager: which run on, which are stopped, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from minicommon.clock import SECOND, VirtualClock
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent import task_machine as machine
from miniworker.agent.disconnection import Disconnection
from miniworker.agent.task_machine import Event, Progress, Step
from miniworker.agent.task_runner import TaskRunner


class Executor:
    """Containers run until they are stopped."""

    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        match step:
            case Step.CREATE:
                return machine.Created("c")
            case Step.START:
                return machine.Started(7)
            case Step.WATCH:
                await asyncio.Event().wait()
        return machine.Done(step)


class Bench:
    """One task that may run without a manager for so many seconds, 0: for ever."""

    def __init__(self, seconds: int) -> None:
        self.clock = VirtualClock()
        task = dispatch.AssignedTask(
            id="t", desired_state=pb.TASK_STATE_RUNNING, spec=pb.TaskSpec(disconnect_stop_ns=seconds * SECOND)
        )
        self.runner = TaskRunner(
            task, Progress(), executor=Executor(), report=lambda *_: None, clock=self.clock
        )
        self.disconnection = Disconnection(lambda: (self.runner,), self.clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        jobs = [asyncio.create_task(self.runner.run()), asyncio.create_task(self.disconnection.run())]
        await idle()
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def after(self, seconds: int) -> pb.TaskState.ValueType:
        """The task's state when so much time has passed."""
        self.clock.advance(seconds * SECOND)
        await idle()
        return self.runner.progress.state


async def idle() -> None:
    """Let everything run that can run now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_task_runs_on_without_a_manager_unless_told_otherwise() -> None:
    bench = Bench(0)
    async with bench.running():
        assert await bench.after(30 * 24 * 3600) == pb.TASK_STATE_RUNNING


async def test_a_task_is_stopped_when_its_time_without_a_manager_is_over() -> None:
    bench = Bench(30)
    async with bench.running():
        bench.disconnection.found()
        assert await bench.after(1000) == pb.TASK_STATE_RUNNING
        bench.disconnection.lost()
        bench.disconnection.lost()  # each further attempt fails, too, and counts nothing anew
        assert await bench.after(29) == pb.TASK_STATE_RUNNING
        bench.disconnection.lost()
        assert await bench.after(1) == pb.TASK_STATE_FAILED
        assert (
            bench.runner.progress.error
            == "task: the node had no manager for longer than --on-disconnect allows"
        )


async def test_a_manager_that_is_found_in_time_lets_the_task_run_on() -> None:
    bench = Bench(30)
    async with bench.running():
        assert await bench.after(29) == pb.TASK_STATE_RUNNING  # this process began without one
        bench.disconnection.found()
        assert await bench.after(29) == pb.TASK_STATE_RUNNING
        bench.disconnection.lost()
        assert await bench.after(29) == pb.TASK_STATE_RUNNING
