"""When a node's keys are rotated, and what the manager hears of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from minicommon.clock import SECOND, VirtualClock
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniworker.agent.encryption import LOOK_NS, EncryptionKeys
from miniworker.agent.reporter import Reporter
from miniworker.network.api import Announced
from miniworker.network.errors import NetworkError
from miniworker.network.fake import FakeDataPlane

PERIOD_NS = 3600 * SECOND


class Rotating(FakeDataPlane):
    """Keys "k1", "k2" and so on; `problem` is raised."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.number = 1
        self.problem = ""
        self._clock = clock
        self._made_at_ns = clock.now_ns()

    async def keys(self) -> Announced:
        if self.problem:
            raise NetworkError(self.problem)
        return Announced(f"k{self.number}", f"k{self.number + 1}")

    async def rotate_keys(self) -> Announced:
        self.number += 1
        self._made_at_ns = self._clock.now_ns()
        return await self.keys()

    async def keys_due_at_ns(self, period_ns: int) -> int:
        return self._made_at_ns + period_ns


@dataclass(slots=True)
class Site:
    clock: VirtualClock
    plane: Rotating
    reporter: Reporter
    connected: bool = True

    def keys(self) -> EncryptionKeys:
        return EncryptionKeys(
            self.plane,
            self.reporter,
            clock=self.clock,
            period_ns=PERIOD_NS,
            connected=lambda: self.connected,
        )

    async def pass_time(self, duration_ns: int) -> None:
        for _ in range(duration_ns // LOOK_NS):
            self.clock.advance(LOOK_NS)
            for _ in range(8):
                await asyncio.sleep(0)


def make() -> Site:
    clock = VirtualClock()
    return Site(clock, Rotating(clock), Reporter())


async def test_keys_are_rotated_once_a_period_and_the_manager_is_told() -> None:
    site = make()
    keys = site.keys()
    await keys.load()
    running = asyncio.create_task(keys.run())
    await site.pass_time(PERIOD_NS - LOOK_NS)
    assert keys.announced == Announced("k1", "k2")
    await site.pass_time(2 * LOOK_NS)
    assert keys.announced == Announced("k2", "k3")
    (message,) = await site.reporter.take()
    assert message.keys == dispatch.WireGuardKeys(current="k2", next="k3")
    running.cancel()


async def test_nothing_is_rotated_while_nobody_could_pass_it_on() -> None:
    site = make()
    site.connected = False
    keys = site.keys()
    await keys.load()
    running = asyncio.create_task(keys.run())
    await site.pass_time(2 * PERIOD_NS)
    assert site.plane.number == 1
    site.connected = True
    await site.pass_time(LOOK_NS)
    assert site.plane.number == 2
    running.cancel()


async def test_a_failure_is_tried_again() -> None:
    site = make()
    keys = site.keys()
    await keys.load()
    site.plane.problem = "disk full"
    running = asyncio.create_task(keys.run())
    await site.pass_time(PERIOD_NS + LOOK_NS)
    assert keys.announced == Announced("k1", "k2")
    site.plane.problem = ""
    await site.pass_time(2 * PERIOD_NS)
    assert keys.announced != Announced("k1", "k2")
    running.cancel()


async def test_a_node_without_keys_works_and_rotates_nothing() -> None:
    site = make()
    site.plane.problem = "disk full"
    keys = site.keys()
    await keys.load()
    assert keys.announced == Announced()
    running = asyncio.create_task(keys.run())
    await site.pass_time(2 * PERIOD_NS)
    assert site.plane.number == 1
    running.cancel()


async def test_a_new_session_says_in_its_hello_what_waited_to_be_told() -> None:
    reporter = Reporter()
    reporter.keys(Announced("k1", "k2"))
    reporter.restart()
    reporter.applied(7)
    (message,) = await reporter.take()
    assert message.HasField("applied")
