"""When a task that left the tables may be drained and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from minicommon.clock import VirtualClock
from minimanager.decide.assignments import TaskAssignment
from minimanager.domain.objects import NetworkAttachment, NodeState, PortConfig, Task, TaskState, TaskStatus
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.feed import Feed, Subscription, Update
from minimanager.rpc.dispatcher.frontier import PATIENCE_NS
from support.cluster_state import WORKER, ingress, node, ready, running_core, service, task

OTHER = "another"


class Site:
    """A worker with a task that has traffic, another worker, and the feed that tells them."""

    def __init__(self, core: Core, feed: Feed, clock: VirtualClock, mine: Task) -> None:
        self.core = core
        self.feed = feed
        self.clock = clock
        self._mine = mine.id

    @property
    def mine(self) -> Task:
        return self.core.cache.snapshot().tasks[self._mine]

    async def settled(self, *places: Subscription) -> None:
        """All of them have heard everything there is, and have applied it."""
        for place in places:
            place.applied((await asyncio.wait_for(place.next(), 5)).revision)

    async def stop(self) -> int:
        """The task is to stop; the revision at which it left the tables."""
        return await self.core.commit(
            self.core.writer.begin().replace(replace(self.mine, desired_state=TaskState.SHUTDOWN))
        )

    def told(self, update: Update) -> TaskAssignment:
        """What the update says of the task."""
        item = update.delta.upserts[f"task/{self._mine}"]
        assert isinstance(item, TaskAssignment)
        return item


@asynccontextmanager
async def site(*, state: TaskState = TaskState.RUNNING) -> AsyncIterator[Site]:
    clock = VirtualClock()
    web = replace(service(), ports=(PortConfig(target_port=80, published_port=80),))
    attached = (NetworkAttachment(ingress().id, "10.0.0.9"),)
    mine = replace(task(web), attachments=attached)
    status = TaskStatus(id=mine.id, state=state, node_id=WORKER)
    other = replace(node(OTHER), ingress_address="10.0.0.3")
    objects = (node(), ready(), other, ready(OTHER), web, mine, status)
    async with running_core(*objects, clock=clock) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None, clock=clock)
        supervisor.start("feed", feed.run())
        yield Site(core, feed, clock, mine)


async def waits(place: Subscription) -> bool:
    """Whether there is nothing new for the node."""
    waiting = asyncio.ensure_future(place.next())
    for _ in range(20):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return waiting.cancelled()


async def test_a_task_is_withdrawn_once_every_node_follows() -> None:
    async with site() as here:
        mine, other = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine, other)
        revision = await here.stop()
        first = await asyncio.wait_for(mine.next(), 5)
        assert (here.told(first).desired_state, here.told(first).withdrawn) == (TaskState.SHUTDOWN, False)
        mine.applied(first.revision)
        assert await waits(mine)
        second = await asyncio.wait_for(other.next(), 5)
        assert second.revision >= revision
        assert await waits(mine)
        other.applied(second.revision)
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn


async def test_a_task_that_had_no_traffic_waits_for_nobody() -> None:
    async with site(state=TaskState.STARTING) as here:
        mine, other = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine, other)
        await here.stop()
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn


async def test_an_unhealthy_task_is_withdrawn_likewise() -> None:
    async with site() as here:
        mine, other = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine, other)
        status = here.core.cache.snapshot().statuses[here.mine.id]
        await here.core.commit(here.core.writer.begin().replace(replace(status, unhealthy=True)))
        await here.settled(mine, other)
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn


async def test_a_node_that_lost_its_connection_is_waited_for_until_it_is_down() -> None:
    async with site() as here:
        mine, other = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine, other)
        here.feed.unsubscribe(other)
        await here.stop()
        await here.settled(mine)
        assert await waits(mine)
        status = here.core.cache.snapshot().node_statuses[OTHER]
        await here.core.commit(here.core.writer.begin().replace(replace(status, state=NodeState.DOWN)))
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn


async def test_a_node_that_came_back_is_waited_for_until_it_has_applied_the_whole_set() -> None:
    async with site() as here:
        mine, old = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine, old)
        await here.stop()
        await here.settled(mine)
        new = here.feed.subscribe(OTHER)
        here.feed.unsubscribe(old)
        assert await waits(mine)
        await here.settled(new)
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn


async def test_a_sick_node_is_waited_for_only_once() -> None:
    async with site() as here:
        mine, other = here.feed.subscribe(WORKER), here.feed.subscribe(OTHER)
        await here.settled(mine)
        await asyncio.wait_for(other.next(), 5)  # and never applies it
        here.clock.advance(PATIENCE_NS)
        await here.stop()
        first = await asyncio.wait_for(mine.next(), 5)
        assert not here.told(first).withdrawn, "its own node has not said yet that it follows"
        mine.applied(first.revision)
        assert here.told(await asyncio.wait_for(mine.next(), 5)).withdrawn
