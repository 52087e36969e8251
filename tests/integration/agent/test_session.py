"""The session over real gRPC: opening, heartbeats, loss and return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from minicommon.clock import MILLISECOND, Clock, SystemClock, VirtualClock
from miniproto.v1 import dispatcher_pb2 as pb
from miniproto.v1 import objects_pb2 as objects
from miniproto.v1 import streams_pb2
from miniworker.agent.reporter import Reporter
from miniworker.agent.session import WELCOME_NS, Session
from support.dispatcher import HEARTBEAT_NS, FakeDispatcher


class Sink:
    def __init__(self) -> None:
        self.messages: list[pb.Assignments] = []
        self.dials: list[tuple[str, str]] = []
        self.trusted: list[pb.Trust] = []
        self.losses = 0

    def hello(self) -> pb.Hello:
        return pb.Hello(description=objects.NodeDescription(hostname="core-02"))

    def welcome(self, welcome: pb.Welcome) -> None:
        self.welcomed = welcome

    def assignments(self, message: pb.Assignments) -> None:
        self.messages.append(message)

    def dial(self, manager: str, dial: streams_pb2.Dial) -> None:
        self.dials.append((manager, dial.stream_id))

    def lost(self) -> None:
        self.losses += 1

    def trust(self, trust: pb.Trust) -> None:
        self.trusted.append(trust)


class Bench:
    """Two managers, of which the session knows the first; the second is not running yet."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.dispatcher = FakeDispatcher(directory / "a.sock")
        self.other = FakeDispatcher(directory / "b.sock")
        self.reporter = Reporter()
        self.sink = Sink()
        self.managers: tuple[str, ...] = (self.dispatcher.address,)
        self.session = Session(
            self.sink,
            self.reporter,
            managers=lambda: self.managers,
            dial=FakeDispatcher.dial,
            clock=clock,
            random=Random(1),
        )

    async def connected(self) -> None:
        """Wait until the session takes statuses."""
        self.reporter.put(objects.TaskStatus(id="t", state=objects.TASK_STATE_RUNNING))
        await self.dispatcher.task_state("t", objects.TASK_STATE_RUNNING)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.dispatcher.start()
        task = asyncio.create_task(self.session.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.dispatcher.stop()
            await self.other.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, SystemClock())
    async with bench.running():
        yield bench


async def test_hello_welcome_and_the_complete_set(bench: Bench) -> None:
    bench.reporter.put(objects.TaskStatus(id="t", state=objects.TASK_STATE_RUNNING))
    await bench.dispatcher.task_state("t", objects.TASK_STATE_RUNNING)
    assert [hello.description.hostname for hello in bench.dispatcher.hellos] == ["core-02"]
    assert bench.sink.messages[0].complete
    assert bench.session.state.connected


async def test_heartbeats_follow_the_period_that_the_manager_gave(tmp_path: Path) -> None:
    clock = VirtualClock()
    bench = Bench(tmp_path, clock)
    async with bench.running():
        bench.reporter.put(objects.TaskStatus(id="t", state=objects.TASK_STATE_RUNNING))
        await bench.dispatcher.task_state("t", objects.TASK_STATE_RUNNING)
        assert bench.dispatcher.heartbeats == 0
        advanced_ns = 0
        while bench.dispatcher.heartbeats < 3:
            clock.advance(HEARTBEAT_NS // 10)
            advanced_ns += HEARTBEAT_NS // 10
            await asyncio.sleep(0)
        assert bench.dispatcher.heartbeats <= advanced_ns // HEARTBEAT_NS


async def test_a_lost_session_is_opened_again_and_told_every_status(bench: Bench) -> None:
    bench.reporter.put(objects.TaskStatus(id="t", state=objects.TASK_STATE_RUNNING))
    await bench.dispatcher.task_state("t", objects.TASK_STATE_RUNNING)
    bench.dispatcher.statuses.clear()
    bench.dispatcher.close_sessions()
    await bench.dispatcher.task_state("t", objects.TASK_STATE_RUNNING)
    assert len(bench.dispatcher.hellos) == 2


async def test_another_manager_is_tried_when_one_is_lost(bench: Bench) -> None:
    await bench.dispatcher.until(lambda: bench.dispatcher.sessions == 1)
    await bench.other.start()
    bench.managers = (bench.dispatcher.address, bench.other.address)
    await bench.dispatcher.stop()
    await bench.other.until(lambda: bench.other.sessions == 1)
    assert bench.session.state.manager == bench.other.address


async def test_a_manager_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    clock = VirtualClock()
    bench = Bench(tmp_path, clock)
    bench.dispatcher.silent = True
    async with bench.running():
        await bench.dispatcher.until(lambda: len(bench.dispatcher.hellos) == 1)
        clock.advance(WELCOME_NS)
        # The pause before the next attempt is drawn below 100 ms, then below 200 ms, and so on.
        while len(bench.dispatcher.hellos) < 2:
            clock.advance(MILLISECOND)
            await asyncio.sleep(0)
        assert bench.session.state.problem == "no answer within 5 s"


async def test_a_manager_that_answers_no_heartbeats_any_more_is_given_up(tmp_path: Path) -> None:
    """As when the way back is cut, or its host is gone without a word."""
    clock = VirtualClock()
    bench = Bench(tmp_path, clock)
    bench.dispatcher.answering = True
    async with bench.running():
        await bench.connected()
        while bench.sink.losses == 0:
            clock.advance(HEARTBEAT_NS // 10)
            await asyncio.sleep(0)
            bench.dispatcher.answering = bench.dispatcher.heartbeats == 0
        assert bench.session.state.problem == "the manager answered none of 3 heartbeats"
        assert bench.dispatcher.heartbeats >= 1


async def test_a_manager_of_before_heartbeats_were_answered_is_kept(tmp_path: Path) -> None:
    clock = VirtualClock()
    bench = Bench(tmp_path, clock)
    async with bench.running():
        await bench.connected()
        while bench.dispatcher.heartbeats < 10:
            clock.advance(HEARTBEAT_NS // 10)
            await asyncio.sleep(0)
        assert bench.sink.losses == 0


async def test_an_agent_that_ends_says_goodbye(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SystemClock())
    await bench.dispatcher.start()
    task = asyncio.create_task(bench.session.run())
    try:
        await bench.connected()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.dispatcher.until(lambda: bench.dispatcher.goodbyes == 1)
    finally:
        await bench.dispatcher.stop()


async def test_a_lost_session_says_why(bench: Bench) -> None:
    await bench.dispatcher.until(lambda: bench.dispatcher.sessions == 1)
    await bench.dispatcher.stop()
    while not bench.session.state.problem:  # noqa: ASYNC110  the state tells nobody
        await asyncio.sleep(0)
    assert not bench.session.state.connected
    assert bench.session.state.problem.startswith(("UNAVAILABLE", "CANCELLED"))
