"""The dispatcher's feed: whenever a node listens, what it was told adds up to what it should be told."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st
from minicommon.clock import VirtualClock
from minimanager.decide.assignments import Item, TaskAssignment, assignments
from minimanager.domain.objects import (
    Network,
    NetworkAttachment,
    NetworkSpec,
    NetworkUse,
    NodeState,
    Object,
    Service,
    Task,
    TaskState,
    TaskStatus,
)
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.feed import Feed, Subscription, Update
from support.cluster_state import ingress, node, ready, running_core, service, task

NODES = ("node-a", "node-b")
NETWORKS = ("plain0000000000000000000", "secret000000000000000000", ingress().id)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("task", "state", "stop", "detach", "forget", "service", "network", "node", "listen")
        ),
        st.integers(0, 7),
        st.sampled_from(NODES),
    ),
    min_size=4,
    max_size=25,
)


class World:
    """Changes to a cluster with two nodes, and what each node has been told."""

    def __init__(self, core: Core, feed: Feed) -> None:
        self._core = core
        self._places = {node_id: feed.subscribe(node_id) for node_id in NODES}
        self.told: dict[str, dict[str, Item]] = {node_id: {} for node_id in NODES}

    async def listen(self, node_id: str) -> None:
        place = self._places[node_id]
        while (update := await _now(place)) is not None:
            told = self.told[node_id]
            for key in update.delta.removals:
                told.pop(key, None)
            told.update(update.delta.upserts)

    async def do(self, what: str, number: int, node_id: str) -> None:
        snapshot = self._core.cache.snapshot()
        tasks = sorted(snapshot.tasks.values(), key=lambda each: each.id)
        services = sorted(snapshot.services.values(), key=lambda each: each.id)
        chosen = tasks[number % len(tasks)] if tasks else None
        network_id = NETWORKS[number % len(NETWORKS)]
        match what:
            case "listen":
                await self.listen(node_id)
            case "node":
                status = snapshot.node_statuses[node_id]
                key = base64.b64encode(bytes((number,)) * 32).decode()
                state = NodeState.DOWN if number % 2 else NodeState.READY
                await self._save(replace(status, state=state, encryption_key=key))
            case "network":
                network = snapshot.networks[network_id]
                await self._save(replace(network, spec=replace(network.spec, labels={"n": str(number)})))
            case "service":
                await self._save(_on(services[number % len(services)], network_id))
            case "task":
                owner = services[number % len(services)]
                address = f"10.9.{len(tasks)}.{number + 2}"
                attached = (NetworkAttachment(network_id, address),)
                new = task(_on(owner, network_id), node_id=node_id, slot=number)
                await self._save(replace(new, attachments=attached, desired_state=TaskState.RUNNING))
            case _ if chosen is not None:
                await self._to_task(what, number, chosen)

    async def _to_task(self, what: str, number: int, chosen: Task) -> None:
        snapshot = self._core.cache.snapshot()
        match what:
            case "state":
                status = snapshot.statuses.get(chosen.id) or TaskStatus(chosen.id, node_id=chosen.node_id)
                state = (TaskState.RUNNING, TaskState.RUNNING, TaskState.FAILED)[number % 3]
                await self._save(replace(status, state=max(status.state, state)))
            case "stop":
                await self._save(replace(chosen, desired_state=TaskState.SHUTDOWN))
            case "detach":
                await self._save(replace(chosen, attachments=()))
            case "forget":
                await self._core.commit(self._core.writer.begin().delete(chosen))

    async def _save(self, obj: Object) -> None:
        await self._core.commit(self._core.writer.begin().save(obj))


def _on(owner: Service, network_id: str) -> Service:
    spec = replace(owner.spec.task, networks=(NetworkUse(network_id),))
    return replace(owner, spec=replace(owner.spec, task=spec))


async def _idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def _now(place: Subscription) -> Update | None:
    """The next update, if there is one already."""
    waiting = asyncio.create_task(place.next())
    await _idle()
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


async def _story(steps: list[tuple[str, int, str]]) -> None:
    networks = (
        Network(NETWORKS[0], spec=NetworkSpec(name="plain"), subnet="10.9.0.0/16", gateway="10.9.0.1"),
        Network(
            NETWORKS[1],
            spec=NetworkSpec(name="secret", encrypted=True),
            subnet="10.10.0.0/16",
            gateway="10.10.0.1",
        ),
    )
    nodes = [each for node_id in NODES for each in (node(node_id), ready(node_id))]
    async with running_core(*nodes, *networks, service("web"), service("db")) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None, clock=VirtualClock())
        supervisor.start("feed", feed.run())
        world = World(core, feed)
        for what, number, node_id in steps:
            await world.do(what, number, node_id)
        await _idle()
        for node_id in NODES:
            await world.listen(node_id)
            assert world.told[node_id] == _wanted(core, feed, node_id)


def _wanted(core: Core, feed: Feed, node_id: str) -> dict[str, Item]:
    """What the node should know. A task that left the tables may stop once no living node leads anybody to it."""
    return {
        key: replace(item, withdrawn=feed.frontier.passed(item.left_at))
        if isinstance(item, TaskAssignment) and item.left_at
        else item
        for key, item in assignments(core.cache.snapshot(), node_id).items()
    }


@given(STEPS)
@example(
    [("task", 0, "node-a"), ("state", 0, "node-a"), ("stop", 0, "node-a")]
    + [("node", 1, node_id) for node_id in NODES]  # nobody is left who could lead clients to it
)
@settings(max_examples=150, deadline=None)
def test_what_a_node_was_told_adds_up(steps: list[tuple[str, int, str]]) -> None:
    asyncio.run(_story(steps))
