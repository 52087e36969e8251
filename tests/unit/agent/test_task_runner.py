"""The loop around the machine: interruption, retries, and what is reported."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from minicommon.clock import SECOND, VirtualClock
from minicommon.errors import UnavailableError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent import task_machine as machine
from miniworker.agent.task_machine import Event, Progress, Step
from miniworker.agent.task_runner import WITHDRAW_NS, TaskRunner
from miniworker.runtime.api import Exit, ImageError, NoSuchContainerError


class ScriptedExecutor:
    """Steps succeed at once; those named in `held` wait to be let go, those in `errors` raise first."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.held: dict[Step, asyncio.Event] = {Step.WATCH: asyncio.Event()}
        self.errors: dict[Step, list[Exception]] = {}
        self.cancelled: list[Step] = []
        self.exit = Exit(0, oom_killed=False, finished_at_ns=0)
        self.entered: dict[Step, asyncio.Event] = {step: asyncio.Event() for step in Step}

    async def perform(self, step: Step, task: dispatch.AssignedTask, progress: Progress) -> Event:
        self.steps.append(step)
        self.entered[step].set()
        try:
            if step in self.held:
                await self.held[step].wait()
        except asyncio.CancelledError:
            self.cancelled.append(step)
            raise
        if errors := self.errors.get(step):
            raise errors.pop(0)
        match step:
            case Step.CREATE:
                return machine.Created("c")
            case Step.START:
                return machine.Started(7)
            case Step.WATCH:
                return machine.Exited(self.exit)
            case Step.DRAIN:
                return machine.Drained(9)
            case _:
                return machine.Done(step)


class Bench:
    """A runner with everything around it in view."""

    def __init__(
        self, desired: pb.TaskState.ValueType = pb.TASK_STATE_RUNNING, *, attached: bool = False
    ) -> None:
        self.executor = ScriptedExecutor()
        self.clock = VirtualClock()
        self.reports: list[Progress] = []
        self.runner = TaskRunner(
            dispatch.AssignedTask(
                id="t",
                desired_state=desired,
                attachments=[pb.NetworkAttachment(network_id="n", address="10.0.0.5")] if attached else [],
            ),
            Progress(),
            executor=self.executor,
            report=self._report,
            clock=self.clock,
        )
        self.task = asyncio.create_task(self.runner.run())

    def _report(self, task_id: str, progress: Progress) -> None:
        self.reports.append(progress)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.task.done() or condition(), self.task
            await asyncio.sleep(0)

    async def state(self, state: pb.TaskState.ValueType) -> Progress:
        await self.until(lambda: self.runner.progress.state == state)
        return self.runner.progress

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_task_runs_and_completes() -> None:
    bench = Bench()
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.executor.held[Step.WATCH].set()
    await bench.state(pb.TASK_STATE_COMPLETE)
    await bench.until(lambda: bench.runner.progress.cleaned)
    assert [progress.state for progress in bench.reports] == [
        pb.TASK_STATE_ACCEPTED,
        pb.TASK_STATE_PREPARING,
        pb.TASK_STATE_READY,
        pb.TASK_STATE_STARTING,
        pb.TASK_STATE_RUNNING,
        pb.TASK_STATE_COMPLETE,
    ]
    await bench.end()


async def test_shutdown_breaks_off_a_pull() -> None:
    bench = Bench()
    bench.executor.held[Step.PULL] = asyncio.Event()
    await bench.executor.entered[Step.PULL].wait()
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    await bench.state(pb.TASK_STATE_SHUTDOWN)
    assert bench.executor.cancelled == [Step.PULL]
    assert Step.CREATE not in bench.executor.steps
    await bench.end()


async def test_shutdown_waits_for_a_start_that_is_under_way() -> None:
    bench = Bench()
    bench.executor.held[Step.START] = asyncio.Event()
    await bench.executor.entered[Step.START].wait()
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    bench.executor.held[Step.START].set()
    await bench.state(pb.TASK_STATE_SHUTDOWN)
    assert bench.executor.steps[bench.executor.steps.index(Step.START) + 1] is Step.STOP
    assert not bench.executor.cancelled
    await bench.end()


async def test_the_desired_state_never_goes_back() -> None:
    bench = Bench()
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    bench.runner.want(pb.TASK_STATE_RUNNING)
    await bench.state(pb.TASK_STATE_SHUTDOWN)
    await bench.end()


async def test_a_ready_task_starts_when_it_is_told() -> None:
    bench = Bench(pb.TASK_STATE_READY)
    await bench.state(pb.TASK_STATE_READY)
    assert Step.LAUNCH not in bench.executor.steps
    bench.runner.want(pb.TASK_STATE_RUNNING)
    await bench.state(pb.TASK_STATE_RUNNING)
    await bench.end()


async def test_a_missing_image_rejects_the_task() -> None:
    bench = Bench()
    bench.executor.errors[Step.PULL] = [ImageError("No such image: nope:1")]
    progress = await bench.state(pb.TASK_STATE_REJECTED)
    assert progress.error == "No such image: nope:1"
    await bench.end()


async def test_a_vanished_container_fails_the_task() -> None:
    bench = Bench()
    bench.executor.held[Step.WATCH].set()
    bench.executor.errors[Step.WATCH] = [NoSuchContainerError("t")]
    progress = await bench.state(pb.TASK_STATE_FAILED)
    assert progress.error == "task: its container is gone"
    await bench.end()


async def test_stopping_is_tried_until_it_works() -> None:
    bench = Bench()
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.executor.errors[Step.STOP] = [UnavailableError("busy"), UnavailableError("busy")]
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    while bench.runner.progress.state != pb.TASK_STATE_SHUTDOWN:
        bench.clock.advance(SECOND)
        await asyncio.sleep(0)
    assert bench.executor.steps.count(Step.STOP) == 3
    await bench.end()


async def test_what_the_kernel_refuses_ends_one_task_and_not_the_agent() -> None:
    bench = Bench()
    bench.executor.errors[Step.CREATE] = [OSError(errno.ENOSPC, "No space left on device")]
    progress = await bench.state(pb.TASK_STATE_REJECTED)
    assert progress.error == "[Errno 28] No space left on device"
    bench.executor.errors[Step.REMOVE] = [OSError(errno.EBUSY, "Device or resource busy")]
    bench.runner.want(pb.TASK_STATE_REMOVE)
    while not bench.runner.progress.removed:
        bench.clock.advance(SECOND)
        await asyncio.sleep(0)
    assert bench.executor.steps.count(Step.REMOVE) == 2
    await bench.task


async def test_removal_ends_the_runner() -> None:
    bench = Bench()
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.runner.want(pb.TASK_STATE_REMOVE)
    await bench.task
    assert bench.executor.steps[-3:] == [Step.STOP, Step.CLEAN, Step.REMOVE]
    assert bench.runner.progress.removed


async def test_a_task_with_traffic_is_stopped_when_all_nodes_have_taken_it_out() -> None:
    bench = Bench(attached=True)
    began_ns = bench.clock.now_ns()
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    for _ in range(50):
        await asyncio.sleep(0)
    bench.clock.advance(WITHDRAW_NS - 1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert Step.STOP not in bench.executor.steps
    bench.runner.want(pb.TASK_STATE_SHUTDOWN, withdrawn=True)
    progress = await bench.state(pb.TASK_STATE_SHUTDOWN)
    stopping = bench.executor.steps[bench.executor.steps.index(Step.WATCH) :]
    assert stopping[:3] == [Step.WATCH, Step.DRAIN, Step.STOP]
    assert progress.stop == machine.Stop(began_ns, began_ns + WITHDRAW_NS - 1, 9)
    await bench.end()


async def test_nothing_waits_for_ever_for_nodes_that_do_not_answer() -> None:
    bench = Bench(attached=True)
    await bench.state(pb.TASK_STATE_RUNNING)
    bench.runner.want(pb.TASK_STATE_SHUTDOWN)
    for _ in range(50):
        await asyncio.sleep(0)
    bench.clock.advance(WITHDRAW_NS)
    progress = await bench.state(pb.TASK_STATE_SHUTDOWN)
    assert progress.stop.unacknowledged
    await bench.end()


async def test_a_container_gets_the_networks_that_its_task_gets_while_it_runs() -> None:
    bench = Bench(attached=True)
    await bench.executor.entered[Step.WATCH].wait()
    assert Step.CONNECT not in bench.executor.steps
    bench.executor.errors[Step.CONNECT] = [UnavailableError("not now")]
    bench.runner.connect(dispatch.AssignedTask(id="t"))
    await bench.executor.entered[Step.CONNECT].wait()
    assert bench.executor.cancelled == [Step.WATCH]
    for _ in range(5):
        await asyncio.sleep(0)
    bench.clock.advance(SECOND)
    await bench.until(lambda: bench.executor.steps[-3:] == [Step.CONNECT, Step.CONNECT, Step.WATCH])
    bench.runner.connect(dispatch.AssignedTask(id="t"))
    await asyncio.sleep(0)
    assert bench.executor.steps[-1] is Step.WATCH
    assert bench.runner.progress.state == pb.TASK_STATE_RUNNING
    await bench.end()


async def test_a_container_of_the_last_process_is_looked_at_before_it_is_watched() -> None:
    bench = Bench(attached=True)
    progress = await bench.state(pb.TASK_STATE_RUNNING)
    await bench.end()
    task = dispatch.AssignedTask(id="t", desired_state=pb.TASK_STATE_RUNNING)
    executor = ScriptedExecutor()
    runner = TaskRunner(
        task,
        progress,
        executor=executor,
        report=lambda task_id, told: None,
        clock=bench.clock,
        restored=True,
    )
    running = asyncio.create_task(runner.run())
    await executor.entered[Step.WATCH].wait()
    assert executor.steps == [Step.CONNECT, Step.WATCH]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
