"""Coalescing, and repetition for a new session."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.reporter import Reporter


def status(task_id: str, state: pb.TaskState.ValueType) -> pb.TaskStatus:
    return pb.TaskStatus(id=task_id, state=state)


def told(messages: tuple[dispatch.WorkerMessage, ...]) -> dict[str, int]:
    return {item.id: item.state for message in messages for item in message.status.statuses}


async def test_only_the_newest_status_of_a_task_is_sent() -> None:
    reporter = Reporter()
    reporter.put(status("a", pb.TASK_STATE_ACCEPTED))
    reporter.put(status("a", pb.TASK_STATE_RUNNING))
    assert told(await reporter.take()) == {"a": pb.TASK_STATE_RUNNING}


async def test_take_waits_for_news() -> None:
    reporter = Reporter()
    taking = asyncio.create_task(reporter.take())
    await asyncio.sleep(0)
    assert not taking.done()
    reporter.put(status("a", pb.TASK_STATE_RUNNING))
    assert told(await taking) == {"a": pb.TASK_STATE_RUNNING}


async def test_a_new_session_is_told_everything_again() -> None:
    reporter = Reporter()
    reporter.put(status("a", pb.TASK_STATE_RUNNING))
    reporter.put(status("b", pb.TASK_STATE_FAILED))
    await reporter.take()
    reporter.forget("b")
    reporter.restart()
    assert told(await reporter.take()) == {"a": pb.TASK_STATE_RUNNING}


async def test_applied_revisions_follow_the_statuses_and_only_grow() -> None:
    reporter = Reporter()
    reporter.put(status("a", pb.TASK_STATE_RUNNING))
    reporter.applied(4)
    *_, last = await reporter.take()
    assert last.applied.revision == 4
    reporter.applied(4)
    taking = asyncio.create_task(reporter.take())
    await asyncio.sleep(0)
    assert not taking.done()
    reporter.applied(5)
    assert [message.applied.revision for message in await taking] == [5]


@given(st.integers(0, 2500))
def test_many_statuses_are_split_into_messages_of_bounded_size(count: int) -> None:
    async def run() -> tuple[dispatch.WorkerMessage, ...]:
        reporter = Reporter()
        for number in range(count):
            reporter.put(status(f"t{number}", pb.TASK_STATE_RUNNING))
        reporter.applied(1)
        return await reporter.take()

    messages = asyncio.run(run())
    assert len(told(messages)) == count
    assert all(len(message.status.statuses) <= 1000 for message in messages)
