"""What answers a question: a function from the question and what comes in to what goes out.

A handler is cancelled when nobody listens any more; what it holds it lets go of then. Its errors are told to whoever
asked: those of `minicommon.errors` with their code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from miniproto.v1 import streams_pb2 as pb

Outputs = AsyncIterator[pb.StreamOutput]

Handler = Callable[[Any, "Inputs"], Outputs]
"""The first argument is the message of the request's own kind: an ExecQuery for `exec`."""

Handlers = Mapping[str, Handler]
"""By the name of the field in NodeRequest."""

DEPTH = 4
"""Messages that wait for whoever reads the input."""


class Inputs:
    """What comes in on a stream, in order; `async for` ends with it."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[pb.StreamInput | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(DEPTH)

    async def put(self, message: pb.StreamInput) -> None:
        """Returns when there is room for it."""
        await self._room.acquire()
        self._arrived.put_nowait(message)

    def end(self) -> None:
        """Nothing more comes."""
        self._arrived.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[pb.StreamInput]:
        while (message := await self._arrived.get()) is not None:
            self._room.release()
            yield message
        self._arrived.put_nowait(None)
