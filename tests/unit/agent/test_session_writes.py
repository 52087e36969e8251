"""Heartbeats and reports share one stream, which takes one message at a time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniworker.agent.session import Outgoing


class NarrowCall:
    """As gRPC's: a write that begins before the one before has ended breaks the stream."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self._busy = False

    async def write(self, message: dispatch.WorkerMessage) -> None:
        assert not self._busy, "Internal error from Core"
        self._busy = True
        await asyncio.sleep(0)
        self._busy = False
        self.written.append(message.applied.revision)


async def test_messages_written_at_the_same_time_go_one_after_the_other() -> None:
    call = NarrowCall()
    outgoing = Outgoing(cast("Any", call))
    messages = [dispatch.WorkerMessage(applied=dispatch.Applied(revision=number)) for number in range(5)]
    await asyncio.gather(*(outgoing.write(message) for message in messages))
    assert call.written == list(range(5))
