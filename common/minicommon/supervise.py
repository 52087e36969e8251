"""Supervised, named asyncio tasks: one group, and a failure in it ends the whole of it.

`asyncio.TaskGroup` gives the cancelling; this adds the rule that an *eternal* task which returns is an error, because
a control loop that quietly ends looks exactly like one with nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any


class EndedError(RuntimeError):
    """A task that should run for ever returned."""


class Supervisor:
    """An `asyncio.TaskGroup` whose members have names and may be eternal.

    Leaving the `async with` block waits for the members; an exception in one cancels the others and is raised as
    an ExceptionGroup. `cancel()` ends the group without an error.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Supervisor:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work`; it may return when it is done."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start_eternal(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work`, which must not return.

        Raises EndedError in the group if it does.
        """

        async def watched() -> None:
            await work
            raise EndedError(f"{name} ended, but it should run for ever")

        return self.start(name, watched())

    def cancel(self) -> None:
        """Cancel every member."""
        for task in tuple(self._tasks):
            task.cancel()
