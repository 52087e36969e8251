"""Probes against real sockets and a runtime in memory, and the monitor on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from minicommon.clock import SECOND, VirtualClock
from miniworker.agent.health.monitor import Monitor
from miniworker.agent.health.policy import Verdict, policy_of
from miniworker.agent.health.probes import Prober, Target
from miniworker.network.fake import FakeDataPlane
from miniworker.runtime.api import ContainerConfig, HealthCheck
from miniworker.runtime.fake import Behavior, FakeRuntime

TARGET = Target("t", "")
CHECK = ("/bin/sh", "-c", "check")


@pytest.fixture
async def runtime() -> FakeRuntime:
    """With one running container, `t`."""
    runtime = FakeRuntime(registry=("whoami:1",), clock=VirtualClock())
    await runtime.pull("whoami:1")
    await runtime.create(ContainerConfig(id="t", name="t", image="whoami:1"))
    await runtime.start("t")
    return runtime


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback that answers every request so, None: never; its port, and the requests' first lines."""
    requests: list[bytes] = []
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        requests.append(await reader.readline())
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests
    await asyncio.gather(*filter(None, handlers))


async def test_a_command_is_judged_by_its_exit_code(runtime: FakeRuntime) -> None:
    prober = Prober(runtime, FakeDataPlane())
    runtime.script(CHECK, Behavior(exit_code=0, output=(("stdout", b"fine"),)))
    good = await prober.probe(("CMD-SHELL", "check"), TARGET, timeout_ns=SECOND)
    assert (good.succeeded, good.output) == (True, "fine")
    runtime.script(CHECK, Behavior(exit_code=1, output=(("stderr", b"broken"),)))
    bad = await prober.probe(("CMD", *CHECK), TARGET, timeout_ns=SECOND)
    assert (bad.succeeded, bad.output) == (False, "broken")


async def test_a_container_that_does_not_run_fails_its_probe(runtime: FakeRuntime) -> None:
    runtime.finish("t")
    result = await Prober(runtime, FakeDataPlane()).probe(("CMD", "x"), TARGET, timeout_ns=SECOND)
    assert (result.succeeded, result.output) == (False, "container t is not running")


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"SSH-2.0-x\r\n", False),
        (b"", False),
    ],
)
async def test_http(runtime: FakeRuntime, answer: bytes, good: bool) -> None:
    async with serving(answer) as (port, requests):
        test = ("HTTP", f"{port}/healthz?x=1")
        result = await Prober(runtime, FakeDataPlane()).probe(test, TARGET, timeout_ns=5 * SECOND)
    assert result.succeeded is good
    assert result.output == (answer.decode().partition("\r")[0] or "no answer")
    assert requests == [b"GET /healthz?x=1 HTTP/1.1\r\n"]


async def test_tcp(runtime: FakeRuntime) -> None:
    prober = Prober(runtime, FakeDataPlane())
    async with serving(b"") as (port, _):
        assert (await prober.probe(("TCP", str(port)), TARGET, timeout_ns=5 * SECOND)).succeeded
    refused = await prober.probe(("TCP", str(port)), TARGET, timeout_ns=5 * SECOND)
    assert not refused.succeeded
    assert refused.output == "Connection refused"


async def test_an_answer_that_does_not_come_is_not_waited_for(runtime: FakeRuntime) -> None:
    async with serving(None) as (port, _):
        test = ("HTTP", f"{port}/")
        result = await Prober(runtime, FakeDataPlane()).probe(test, TARGET, timeout_ns=SECOND // 50)
    assert result.output == "Health check exceeded timeout (0.02s)"


async def _until(clock: VirtualClock, work: asyncio.Task[object]) -> None:
    """Let virtual time pass, a second at a time, until the work is done."""
    while not work.done():
        for _ in range(20):
            await asyncio.sleep(0)
        if not work.done():
            clock.advance(SECOND)


async def test_the_monitor_tells_the_first_success(runtime: FakeRuntime) -> None:
    clock = VirtualClock()
    runtime.script(CHECK, Behavior(exit_code=1))
    monitor = Monitor(Prober(runtime, FakeDataPlane()), clock)
    watch = monitor.watch(("CMD", *CHECK), TARGET, policy_of(HealthCheck()), began=Verdict.STARTING)
    work = asyncio.create_task(watch.change())
    while runtime.calls.count(("exec", "t")) < 3:
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(SECOND)
    assert not work.done()
    runtime.script(CHECK, Behavior(exit_code=0))
    await _until(clock, work)
    assert work.result().verdict is Verdict.HEALTHY


async def test_the_monitor_of_a_healthy_one_tells_its_end_with_the_last_output(runtime: FakeRuntime) -> None:
    clock = VirtualClock()
    runtime.script(CHECK, Behavior(exit_code=1, output=(("stdout", b"no database"),)))
    monitor = Monitor(Prober(runtime, FakeDataPlane()), clock)
    watch = monitor.watch(("CMD", *CHECK), TARGET, policy_of(HealthCheck()), began=Verdict.HEALTHY)
    began = clock.now_ns()
    work = asyncio.create_task(watch.change())
    await _until(clock, work)
    change = work.result()
    assert (change.verdict, change.output) == (Verdict.UNHEALTHY, "no database")
    assert clock.now_ns() - began == 90 * SECOND
    assert runtime.calls.count(("exec", "t")) == 3
