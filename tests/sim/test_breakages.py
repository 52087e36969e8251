"""The simulation notices when the code is broken: each breakage, by its name, and the guarantee that catches it.

A story here is one service of five tasks on five nodes that is created and then updated, told to leaders that are
broken in one way. Without a breakage nothing is caught, so it is the breakage that is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from minimanager.codec import to_proto
from minimanager.domain.objects import (
    Availability,
    ContainerSpec,
    Node,
    Placement,
    Service,
    ServiceSpec,
    TaskSpec,
    TaskState,
    UpdateConfig,
)
from minimanager.domain.snapshot import Snapshot
from miniproto.v1 import control_pb2
from support.sim.agents import GOOD
from support.sim.managers import Manager
from support.sim.virtual_time import VirtualTime, run
from support.sim.world import BrokenError, World

FROZEN_SECONDS = 10.0
"""Longer than a leader's lease."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """`misread` is what a broken leader takes the state for; without the fence a former leader may write."""

    caught_by: str
    misread: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot
    fenced: bool = True


def _services(change: Callable[[Service], Service]) -> Callable[[Snapshot], Snapshot]:
    def misread(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, services={key: change(each) for key, each in snapshot.services.items()})

    return misread


def _with_spec(**changes: object) -> Callable[[Snapshot], Snapshot]:
    return _services(lambda service: replace(service, spec=replace(service.spec, **changes)))  # type: ignore[arg-type]


def _all_active(snapshot: Snapshot) -> Snapshot:
    def active(node: Node) -> Node:
        return replace(node, spec=replace(node.spec, availability=Availability.ACTIVE))

    return replace(snapshot, nodes={key: active(node) for key, node in snapshot.nodes.items()})


BREAKAGES = {
    "a former leader may write": Breakage("OneWantedPerPlace", fenced=False),
    "one replica too many": Breakage(
        "NoMorePlacesThanAsked",
        _services(lambda each: replace(each, spec=replace(each.spec, replicas=each.spec.replicas + 1))),
    ),
    "parallelism does not count": Breakage(
        "NoMoreDownThanParallelism", _with_spec(update=UpdateConfig(parallelism=0))
    ),
    "constraints do not count": Breakage("OnlyWhereItMayBe", _with_spec(placement=Placement())),
    "availability does not count": Breakage("OnlyWhereItMayBe", _all_active),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A broken leader complains a lot."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def _spec(version: int) -> ServiceSpec:
    return ServiceSpec(
        name="web",
        replicas=5,
        task=TaskSpec(container=ContainerSpec(image=f"{GOOD}:{version}")),
        update=UpdateConfig(parallelism=1),
        placement=Placement(constraints=("node.labels.zone!=a",)),
    )


def _tell(breakage: Breakage) -> None:
    clock = VirtualTime()
    run(_story(clock, breakage), clock)


async def _story(clock: VirtualTime, breakage: Breakage) -> None:
    """Raises BrokenError."""
    world = World(1, 5, clock=clock, history_limit=5, fenced=breakage.fenced, misread=breakage.misread)
    frozen: list[Manager] = []

    def freeze(leader: Manager) -> None:
        leader.connection.stall()
        frozen.append(leader)

    try:
        await world.start()
        await world.wait(5.0)
        await _drain_one_of_zone(world, "b")
        world.when_decided = freeze
        await world.managers[0].services.Create(
            control_pb2.CreateServiceRequest(spec=to_proto(_spec(1))),
            None,  # type: ignore[arg-type]
        )
        await world.wait(FROZEN_SECONDS)
        (leader,) = frozen
        leader.connection.mend()
        await world.wait(60.0)
        (service,) = world.history.state.services.values()
        await world.managers[0].services.Update(
            control_pb2.UpdateServiceRequest(
                ref=service.id, version=service.meta.version, spec=to_proto(_spec(2))
            ),
            None,  # type: ignore[arg-type]
        )
        await world.wait(600.0)
        state = world.history.state
        fresh = [task for task in state.tasks.values() if task.spec_version == 2 and state.runs(task)]
        assert len([task for task in fresh if task.desired_state is TaskState.RUNNING]) == 5
    finally:
        await world.stop()


async def _drain_one_of_zone(world: World, zone: str) -> None:
    nodes = sorted(world.history.state.nodes.values(), key=lambda node: node.id)
    node = next(node for node in nodes if node.spec.labels["zone"] == zone)
    spec = replace(node.spec, availability=Availability.DRAIN)
    await world.managers[0].nodes.Update(
        control_pb2.UpdateNodeRequest(ref=node.id, version=node.meta.version, spec=to_proto(spec)),
        None,  # type: ignore[arg-type]
    )
    await world.wait(1.0)


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_breakage_is_caught(name: str) -> None:
    breakage = BREAKAGES[name]
    with pytest.raises(BrokenError, match=breakage.caught_by):
        _tell(breakage)


def test_what_is_not_broken_is_not_caught() -> None:
    """With the same frozen leader: the fence holds it off."""
    _tell(Breakage("nothing"))
