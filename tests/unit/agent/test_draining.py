"""Waiting for connections to end, and reading who is connected."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from minicommon.clock import MILLISECOND, SECOND, VirtualClock
from miniworker.agent.draining import DRAIN_NS, LINGER_NS, Drain, drain_timeout_ns
from miniworker.network.api import Connections
from miniworker.network.connections import connections_here, count_connections
from miniworker.network.errors import NetworkError
from miniworker.network.fake import FakeDataPlane


async def _pass(clock: VirtualClock, work: asyncio.Task[int]) -> int:
    """Let time pass until the work is done."""
    while not work.done():
        for _ in range(10):
            await asyncio.sleep(0)
        if not work.done():
            clock.advance(10 * MILLISECOND)
    return work.result()


async def test_nothing_open_is_no_wait() -> None:
    clock = VirtualClock()
    assert await Drain(FakeDataPlane(), clock).open("t", timeout_ns=SECOND) == 0


async def test_open_connections_are_waited_for_until_they_end() -> None:
    clock, networks = VirtualClock(), FakeDataPlane()
    networks.open["t"] = Connections(open=3)
    began_ns = clock.now_ns()
    work = asyncio.create_task(Drain(networks, clock).open("t", timeout_ns=10 * SECOND))
    for _ in range(30):
        await asyncio.sleep(0)
        clock.advance(10 * MILLISECOND)
    assert not work.done()
    networks.open["t"] = Connections(closing=1)
    assert await _pass(clock, work) == 0
    assert clock.now_ns() - began_ns < SECOND


async def test_those_that_stay_are_counted_when_the_time_is_over() -> None:
    clock, networks = VirtualClock(), FakeDataPlane()
    networks.open["t"] = Connections(open=2, closing=1)
    drain = Drain(networks, clock)
    began_ns = clock.now_ns()
    assert await _pass(clock, asyncio.create_task(drain.open("t", timeout_ns=SECOND))) == 2
    assert clock.now_ns() - began_ns == SECOND
    assert await _pass(clock, asyncio.create_task(drain.closing("t"))) == 1
    assert clock.now_ns() - began_ns == SECOND + LINGER_NS


async def test_what_cannot_be_known_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeDataPlane):
        async def connections(self, task_id: str) -> Connections:
            raise NetworkError("no")

    assert await Drain(Broken(), VirtualClock()).open("t", timeout_ns=SECOND) == 0


def test_a_specification_may_leave_it_open_or_ask_for_none() -> None:
    assert (drain_timeout_ns(0), drain_timeout_ns(-1), drain_timeout_ns(7)) == (DRAIN_NS, 0, 7)


LISTEN = "0: 00000000:11D7 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1: 0500000A:11D7 630A4D0A:D431 01 0:0 0:0 0 0 0 1", Connections(open=1)),
        ("1: 0500000A:11D7 630A4D0A:D431 08 0:0 0:0 0 0 0 1", Connections(open=1)),
        ("1: 0500000A:11D7 630A4D0A:D431 04 0:0 0:0 0 0 0 1", Connections(closing=1)),
        ("1: 0500000A:11D7 630A4D0A:D431 06 0:0 0:0 0 0 0 1", Connections()),
        ("1: 0500000A:D431 630A4D0A:11D7 01 0:0 0:0 0 0 0 1", Connections()),
        ("1: 0500000A:11D7 0500000A:D431 01 0:0 0:0 0 0 0 1", Connections()),
    ],
    ids=["established", "half closed", "closing", "over", "the task's own", "a probe from inside"],
)
def test_the_kernels_table_tells_who_is_connected(line: str, found: Connections) -> None:
    assert count_connections([LISTEN, line]) == found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_connections_inside_one_machine_are_not_counted() -> None:
    before = connections_here().open
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert connections_here().open == before
