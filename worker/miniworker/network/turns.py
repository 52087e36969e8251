"""Who may work when: on different tasks at the same time, on one task one after the other, on all of them alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """Locks for one event loop. Who waits to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._alone = False
        self._waiting_alone = 0
        self._waiters: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def of(self, task_id: str) -> AsyncIterator[None]:
        """Nobody else works on this task, and nobody on all."""
        await self._until(lambda: not (self._alone or self._waiting_alone or task_id in self._busy))
        self._busy.add(task_id)
        try:
            yield
        finally:
            self._busy.remove(task_id)
            self._wake()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else works."""
        self._waiting_alone += 1
        try:
            await self._until(lambda: not (self._alone or self._busy))
            self._alone = True
        finally:
            self._waiting_alone -= 1
            self._wake()
        try:
            yield
        finally:
            self._alone = False
            self._wake()

    async def _until(self, mine: Callable[[], bool]) -> None:
        while not mine():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        """Let everybody look again: few wait, and each knows best what for."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
