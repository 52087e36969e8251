"""The dispatcher's parts on a store in memory and virtual time: presence, node records, reports, the feed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.errors import ConflictError, MiniError
from minicommon.supervise import Supervisor
from minimanager.domain.objects import (
    Network,
    NetworkAttachment,
    NetworkSpec,
    NodeDescription,
    NodeState,
    NodeStatus,
    TaskState,
    TaskStatus,
)
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.feed import Feed
from minimanager.rpc.dispatcher.groups import LOG_LENGTH
from minimanager.rpc.dispatcher.node_record import Arrival, NodeRecords
from minimanager.rpc.dispatcher.presence import RECONNECT_GRACE_NS, Presence
from minimanager.rpc.dispatcher.reports import Reports
from minimanager.store.memory import MemoryStore
from support.cluster_state import WORKER, ingress, node, ready, running_core, service, task

ARRIVAL = Arrival(NodeDescription(hostname="core-02"), "10.77.0.12")


class FakeSession:
    """Remembers why it was closed."""

    def __init__(self) -> None:
        self.reason: MiniError | None = None

    def close(self, reason: MiniError) -> None:
        self.reason = reason


async def status_of(core: Core, state: NodeState) -> NodeStatus:
    """The worker's status once it is `state`."""
    with core.cache.subscribe() as changes:
        while True:
            status = core.cache.snapshot().node_statuses.get(WORKER)
            if status is not None and status.state is state:
                return status
            await asyncio.wait_for(changes.next(), 5)


async def idle() -> None:
    """Let everything run that can run now."""
    for _ in range(50):
        await asyncio.sleep(0)


def presence_of(core: Core, supervisor: Supervisor) -> tuple[NodeRecords, Presence]:
    records = NodeRecords(core)
    return records, Presence(records, core.clock, supervisor)


# --- node records ---


async def test_an_arriving_node_is_ready_with_what_it_says_of_itself() -> None:
    async with running_core(node()) as (core, _):
        await NodeRecords(core).ready(WORKER, ARRIVAL)
        status = core.cache.snapshot().node_statuses[WORKER]
        assert (status.state, status.address, status.description.hostname) == (
            NodeState.READY,
            "10.77.0.12",
            "core-02",
        )
        assert status.session_manager == core.node_id
        assert status.since_ns == core.clock.now_ns()


async def test_saying_the_same_again_writes_nothing() -> None:
    async with running_core(node()) as (core, _):
        records = NodeRecords(core)
        await records.ready(WORKER, ARRIVAL)
        version = core.cache.snapshot().node_statuses[WORKER].meta.version
        await records.ready(WORKER, ARRIVAL)
        assert core.cache.snapshot().node_statuses[WORKER].meta.version == version


async def test_a_node_that_was_removed_gets_no_status() -> None:
    async with running_core() as (core, _):
        await NodeRecords(core).ready(WORKER, ARRIVAL)
        assert WORKER not in core.cache.snapshot().node_statuses


async def test_a_node_held_by_another_manager_is_not_called_down() -> None:
    async with running_core(node(), ready(manager="another")) as (core, _):
        assert not await NodeRecords(core).down(WORKER, "gone", still=lambda: True)
        assert core.cache.snapshot().node_statuses[WORKER].state is NodeState.READY


@pytest.mark.parametrize(("ready_s", "losses"), [(299, 2), (300, 1)])
async def test_losses_soon_after_a_return_are_counted(ready_s: int, losses: int) -> None:
    clock = VirtualClock()
    async with running_core(node(), clock=clock) as (core, _):
        records = NodeRecords(core)
        for _ in range(2):
            await records.ready(WORKER, ARRIVAL)
            clock.advance(ready_s * SECOND)
            await records.down(WORKER, "lost", still=lambda: True)
            await records.down(WORKER, "still lost", still=lambda: True)
        status = core.cache.snapshot().node_statuses[WORKER]
        assert (status.state, status.losses) == (NodeState.DOWN, losses)


async def test_a_node_under_reservation_is_down_until_it_is_admitted() -> None:
    async with running_core(node()) as (core, _):
        records = NodeRecords(core)
        await records.ready(WORKER, ARRIVAL, reservation="flaps")
        status = core.cache.snapshot().node_statuses[WORKER]
        assert (status.state, status.message) == (NodeState.DOWN, "flaps")
        await records.admit(WORKER)
        status = core.cache.snapshot().node_statuses[WORKER]
        assert (status.state, status.message) == (NodeState.READY, "")


# --- presence ---


async def test_a_node_whose_connection_was_cut_is_down_after_the_grace() -> None:
    clock = VirtualClock()
    async with running_core(node(), clock=clock) as (core, supervisor):
        records, presence = presence_of(core, supervisor)
        session = FakeSession()
        presence.arrive(WORKER, session)
        await records.ready(WORKER, ARRIVAL)
        presence.depart(WORKER, session, grace_ns=RECONNECT_GRACE_NS, message="lost")
        await idle()
        clock.advance(RECONNECT_GRACE_NS - 1)
        await idle()
        assert core.cache.snapshot().node_statuses[WORKER].state is NodeState.READY
        clock.advance(1)
        assert (await status_of(core, NodeState.DOWN)).message == "lost"


async def test_a_node_that_comes_back_within_the_grace_stays_ready() -> None:
    clock = VirtualClock()
    async with running_core(node(), clock=clock) as (core, supervisor):
        records, presence = presence_of(core, supervisor)
        first, second = FakeSession(), FakeSession()
        presence.arrive(WORKER, first)
        await records.ready(WORKER, ARRIVAL)
        presence.depart(WORKER, first, grace_ns=RECONNECT_GRACE_NS, message="lost")
        presence.arrive(WORKER, second)
        clock.advance(10 * RECONNECT_GRACE_NS)
        await idle()
        assert core.cache.snapshot().node_statuses[WORKER].state is NodeState.READY


async def test_a_newer_session_supersedes_the_older_and_the_end_of_the_older_means_nothing() -> None:
    clock = VirtualClock()
    async with running_core(node(), clock=clock) as (core, supervisor):
        records, presence = presence_of(core, supervisor)
        first, second = FakeSession(), FakeSession()
        presence.arrive(WORKER, first)
        await records.ready(WORKER, ARRIVAL)
        presence.arrive(WORKER, second)
        assert isinstance(first.reason, ConflictError)
        presence.depart(WORKER, first, grace_ns=0, message="lost")
        await idle()
        assert presence.connected(WORKER)
        assert core.cache.snapshot().node_statuses[WORKER].state is NodeState.READY


async def test_after_a_restart_nodes_have_twice_the_time_of_a_silent_one() -> None:
    clock = VirtualClock()
    async with running_core(node(), ready(), clock=clock) as (core, supervisor):
        _, presence = presence_of(core, supervisor)
        presence.expect(core.cache.snapshot())
        await idle()
        clock.advance(12 * SECOND - 1)
        await idle()
        assert core.cache.snapshot().node_statuses[WORKER].state is NodeState.READY
        clock.advance(1)
        await status_of(core, NodeState.DOWN)


async def test_down_is_written_once_the_store_answers_again() -> None:
    clock = VirtualClock()
    async with running_core(node(), ready(), clock=clock) as (core, supervisor):
        _, presence = presence_of(core, supervisor)
        assert isinstance(core.store, MemoryStore)
        core.store.set_available(False)
        session = FakeSession()
        presence.arrive(WORKER, session)
        presence.depart(WORKER, session, grace_ns=0, message="lost")
        await idle()
        core.store.set_available(True)
        await idle()
        clock.advance(SECOND)
        await status_of(core, NodeState.DOWN)


# --- reports ---


async def test_reports_are_written_and_coalesced() -> None:
    web = service()
    mine = task(web)
    async with running_core(node(), web, mine) as (core, supervisor):
        reports = Reports(core, WORKER)
        supervisor.start("reports", reports.run())
        reports.add([TaskStatus(id=mine.id, state=TaskState.ACCEPTED)])
        reports.add([TaskStatus(id=mine.id, state=TaskState.RUNNING)])
        await asyncio.wait_for(reports.written(), 5)
        written = core.cache.snapshot().statuses[mine.id]
        assert (written.state, written.node_id) == (TaskState.RUNNING, WORKER)


@pytest.mark.parametrize("case", ["unknown task", "task of another node", "state goes back"])
async def test_what_a_node_may_not_say_is_refused_and_the_rest_is_written(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    web = service()
    mine, other = task(web), task(web, node_id="another", slot=2)
    known = TaskStatus(id=mine.id, state=TaskState.RUNNING, node_id=WORKER)
    async with running_core(node(), web, mine, other, known) as (core, supervisor):
        reports = Reports(core, WORKER)
        supervisor.start("reports", reports.run())
        wrong = {
            "unknown task": TaskStatus(id="nowhere", state=TaskState.RUNNING),
            "task of another node": TaskStatus(id=other.id, state=TaskState.RUNNING),
            "state goes back": TaskStatus(id=mine.id, state=TaskState.STARTING),
        }[case]
        reports.add([wrong])
        await asyncio.wait_for(reports.written(), 5)
        reports.add([replace(known, state=TaskState.COMPLETE)])
        await asyncio.wait_for(reports.written(), 5)
        statuses = core.cache.snapshot().statuses
        assert statuses[mine.id].state is TaskState.COMPLETE
        assert set(statuses) == {mine.id}
        assert [record.getMessage() for record in caplog.records] == ["Status refused."]


async def test_reports_survive_a_store_that_does_not_answer() -> None:
    clock = VirtualClock()
    web = service()
    mine = task(web)
    async with running_core(node(), web, mine, clock=clock) as (core, supervisor):
        assert isinstance(core.store, MemoryStore)
        reports = Reports(core, WORKER)
        supervisor.start("reports", reports.run())
        core.store.set_available(False)
        reports.add([TaskStatus(id=mine.id, state=TaskState.STARTING)])
        await idle()
        reports.add([TaskStatus(id=mine.id, state=TaskState.RUNNING)])
        core.store.set_available(True)
        clock.advance(SECOND)
        await asyncio.wait_for(reports.written(), 5)
        assert core.cache.snapshot().statuses[mine.id].state is TaskState.RUNNING


async def test_texts_without_end_are_cut() -> None:
    web = service()
    mine = task(web)
    async with running_core(node(), web, mine) as (core, supervisor):
        reports = Reports(core, WORKER)
        supervisor.start("reports", reports.run())
        reports.add([TaskStatus(id=mine.id, state=TaskState.FAILED, error="x" * 3_000_000)])
        await asyncio.wait_for(reports.written(), 5)
        assert len(core.cache.snapshot().statuses[mine.id].error) == 4096


# --- the feed ---


async def test_the_feed_begins_with_the_whole_set_and_goes_on_with_what_changes() -> None:
    web = service()
    mine = task(web)
    async with running_core(node(), ready(), web, mine) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        place = feed.subscribe(WORKER)
        first = await place.next()
        assert first.complete
        assert f"task/{mine.id}" in first.delta.upserts
        assert "network/ingress000000000000000000" in first.delta.upserts

        another = task(web, slot=2)
        revision = await core.writer.commit(core.writer.begin().create(another))
        second = await asyncio.wait_for(place.next(), 5)
        assert not second.complete
        assert list(second.delta.upserts) == [f"task/{another.id}"]
        assert second.revision == revision


async def test_changes_gather_while_a_node_is_not_listening() -> None:
    web = service()
    async with running_core(node(), ready(), web) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        place = feed.subscribe(WORKER)
        await place.next()
        tasks = [task(web, slot=slot) for slot in range(1, 200)]
        for each in tasks:
            await core.commit(core.writer.begin().create(each))
        await idle()
        update = await asyncio.wait_for(place.next(), 5)
        assert set(update.delta.upserts) == {f"task/{each.id}" for each in tasks}


@pytest.mark.parametrize("count", [3, 2 * LOG_LENGTH])
async def test_a_session_that_is_behind_catches_up_on_what_all_share(count: int) -> None:
    web = service()
    other = replace(node("another"), ingress_address="10.0.0.3")
    async with running_core(node(), ready(), other, ready("another"), web) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        place = feed.subscribe(WORKER)
        await place.next()
        addresses = [
            f"10.0.1.{number}" if number < 256 else f"10.0.2.{number - 256}" for number in range(count)
        ]
        for slot, address in enumerate(addresses, 1):
            attached = (NetworkAttachment(ingress().id, address),)
            await core.commit(
                core.writer.begin().create(
                    replace(task(web, node_id="another", slot=slot), attachments=attached)
                )
            )
            await idle()
        update = await asyncio.wait_for(place.next(), 5)
        assert set(update.delta.upserts) == {f"endpoint/{ingress().id}/{address}" for address in addresses}
        assert not update.delta.removals


async def test_what_concerns_another_node_only_is_not_sent() -> None:
    web = service()
    async with running_core(node(), ready(), web) as (core, supervisor):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        place = feed.subscribe(WORKER)
        await place.next()
        await core.commit(core.writer.begin().create(task(web, node_id="another")))
        waiting = asyncio.create_task(place.next())
        await idle()
        assert not waiting.done()
        waiting.cancel()


async def test_a_removed_node_is_told_of() -> None:
    removed: list[str] = []
    async with running_core(node(), ready()) as (core, supervisor):
        feed = Feed(core.cache, removed.append)
        supervisor.start("feed", feed.run())
        present = core.cache.snapshot().nodes[WORKER]
        await core.commit(core.writer.begin().delete(present))
        await idle()
        assert removed == [WORKER]


async def test_a_change_of_a_network_wakes_only_the_nodes_on_it() -> None:
    backend = Network("backend", spec=NetworkSpec(name="backend"), subnet="10.9.0.0/24", gateway="10.9.0.1")
    web = service()
    here = replace(task(web), attachments=(NetworkAttachment(backend.id, "10.9.0.2"),))
    async with running_core(node(), ready(), node("another"), ready("another"), backend, web, here) as (
        core,
        supervisor,
    ):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        on_it, elsewhere = feed.subscribe(WORKER), feed.subscribe("another")
        assert f"network/{backend.id}" in (await on_it.next()).delta.upserts
        assert f"network/{backend.id}" not in (await elsewhere.next()).delta.upserts
        woken = [asyncio.create_task(on_it.next()), asyncio.create_task(elsewhere.next())]
        await idle()
        far = replace(
            task(web, node_id="far", slot=2), attachments=(NetworkAttachment(backend.id, "10.9.0.3"),)
        )
        await core.commit(core.writer.begin().create(node("far")).create(ready("far")).create(far))
        await idle()
        assert [each.done() for each in woken] == [True, True]  # of the new node's address on ingress
        woken = [asyncio.create_task(on_it.next()), asyncio.create_task(elsewhere.next())]
        await idle()
        await core.commit(core.writer.begin().delete(core.cache.snapshot().tasks[far.id]))
        await idle()
        assert [each.done() for each in woken] == [True, False]
        assert woken[0].result().delta.removals == {f"endpoint/{backend.id}/10.9.0.3"}
        woken[1].cancel()


async def test_a_node_that_gets_its_first_task_on_a_network_is_told_all_of_it() -> None:
    backend = Network("backend", spec=NetworkSpec(name="backend"), subnet="10.9.0.0/24", gateway="10.9.0.1")
    web = service()
    there = replace(
        task(web, node_id="another", slot=2), attachments=(NetworkAttachment(backend.id, "10.9.0.3"),)
    )
    async with running_core(node(), ready(), node("another"), ready("another"), backend, web, there) as (
        core,
        supervisor,
    ):
        feed = Feed(core.cache, lambda _: None)
        supervisor.start("feed", feed.run())
        place = feed.subscribe(WORKER)
        await place.next()
        mine = replace(task(web), attachments=(NetworkAttachment(backend.id, "10.9.0.2"),))
        await core.commit(core.writer.begin().create(mine))
        update = await asyncio.wait_for(place.next(), 5)
        told = {
            f"network/{backend.id}",
            f"endpoint/{backend.id}/10.9.0.2",
            f"endpoint/{backend.id}/10.9.0.3",
        }
        assert set(update.delta.upserts) - {f"service/{backend.id}/{web.id}"} == told | {f"task/{mine.id}"}
        await core.commit(core.writer.begin().delete(core.cache.snapshot().tasks[mine.id]))
        update = await asyncio.wait_for(place.next(), 5)
        assert told <= update.delta.removals
