"""The work queue: one entry per key.

A key is never worked on twice at once, and adding it again while it waits changes nothing. Added while it is being
worked on, it comes back when that is done. How long a key waits after a failure is the queue's business: the delay
doubles with each failure in a row and is forgotten with the first success.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from typing import Final, Literal, NoReturn

from minicommon.clock import MILLISECOND, SECOND, Clock

BACKOFF_NS: Final = 5 * MILLISECOND
"""After the first failure: about as long as etcd takes to commit, for most failures are lost races."""

BACKOFF_MAX_NS: Final = 30 * SECOND


class WorkQueue:
    """Keys to work on. `run` must run for the delayed ones to come back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[str, None] = {}  # an ordered set
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due_ns: dict[str, int] = {}
        self._delayed: list[tuple[int, str]] = []
        self._has_ready = asyncio.Event()
        self._earlier = asyncio.Event()

    def __len__(self) -> int:
        """How many keys could be taken now."""
        return len(self._ready)

    def add(self, key: str) -> None:
        """Work on the key as soon as possible."""
        if key in self._working:
            self._again.add(key)
            return
        self._ready[key] = None
        self._has_ready.set()

    def add_at(self, key: str, when_ns: int) -> None:
        """Work on the key at `when_ns` (nanoseconds since the epoch); of several such times the first counts."""
        if when_ns <= self._clock.now_ns():
            self.add(key)
        elif when_ns < self._due_ns.get(key, when_ns + 1):
            self._due_ns[key] = when_ns
            heapq.heappush(self._delayed, (when_ns, key))
            self._earlier.set()

    async def take(self) -> frozenset[str]:
        """Wait until there is work, then take all of it. Each key must be given back, `done` or `failed`."""
        while not self._ready:
            self._has_ready.clear()
            await self._has_ready.wait()
        taken = frozenset(self._ready)
        self._ready.clear()
        self._working |= taken
        return taken

    def done(self, keys: Iterable[str]) -> None:
        """The work succeeded."""
        for key in keys:
            self._failures.pop(key, None)
            self._give_back(key)

    def failed(self, keys: Iterable[str]) -> None:
        """The work must be done again, later the more often it has failed."""
        now_ns = self._clock.now_ns()
        for key in keys:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            self.add_at(key, now_ns + backoff_ns(failures))
            self._again.discard(key)  # or a key that changes all the time would know no delay
            self._give_back(key)

    async def run(self) -> NoReturn:
        """Bring delayed keys back when their time has come."""
        while True:
            now_ns = self._clock.now_ns()
            while self._delayed and self._delayed[0][0] <= now_ns:
                when_ns, key = heapq.heappop(self._delayed)
                if self._due_ns.get(key) == when_ns:
                    del self._due_ns[key]
                    self.add(key)
            await self._next_due()

    async def _next_due(self) -> None:
        """Return when the first delayed key is due or an earlier one came."""
        self._earlier.clear()
        waits = {asyncio.create_task(self._earlier.wait(), name="queue: earlier")}
        if self._delayed:
            waits.add(asyncio.create_task(self._due(self._delayed[0][0]), name="queue: due"))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _due(self, when_ns: int) -> Literal[True]:
        await self._clock.sleep_until(when_ns)
        return True

    def _give_back(self, key: str) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)


def backoff_ns(failures: int) -> int:
    """The delay after `failures` earlier failures in a row, in nanoseconds."""
    return min(BACKOFF_NS << min(failures, 32), BACKOFF_MAX_NS)
