"""Waiting for a task's connections to end before it is stopped.

It gets no new ones by then: its node and all others have taken it out of their tables. Swarm sleeps for two seconds at
this point, whatever is open (libnetwork `deleteServiceBinding`, moby `daemon/cluster/executor/container`); here that is
the most, and a task that nobody is connected to is stopped at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError

from miniworker.network.api import Connections

DRAIN_NS = 2 * SECOND
"""What open connections have to end, unless the service says otherwise."""

LINGER_NS = 1 * SECOND
"""What the last bytes of a stopped task have to arrive before its namespace goes: several retransmissions."""

_FIRST_LOOK_NS = 10 * MILLISECOND
_LONGEST_LOOK_NS = 100 * MILLISECOND
"""Between two looks; a look at a thousand connections costs about a millisecond."""


class Networks(Protocol):
    """Knows who is connected to a task."""

    async def connections(self, task_id: str) -> Connections:
        """Those there are now. Raises NetworkError."""


class Drain:
    def __init__(self, networks: Networks, clock: Clock) -> None:
        self._networks = networks
        self._clock = clock

    async def open(self, task_id: str, *, timeout_ns: int) -> int:
        """Return once no connection is open, or after `timeout_ns`; how many are left."""
        return await self._wait(task_id, lambda found: found.open, timeout_ns)

    async def closing(self, task_id: str) -> int:
        """Return once whatever the task has sent has arrived, or after LINGER_NS; how many are left."""
        return await self._wait(task_id, lambda found: found.closing, LINGER_NS)

    async def _wait(self, task_id: str, number: Callable[[Connections], int], timeout_ns: int) -> int:
        end_ns = self._clock.now_ns() + timeout_ns
        pause_ns = _FIRST_LOOK_NS
        while True:
            left = await self._look(task_id, number)
            now_ns = self._clock.now_ns()
            if not left or now_ns >= end_ns:
                return left
            await self._clock.sleep_until(min(now_ns + pause_ns, end_ns))
            pause_ns = min(2 * pause_ns, _LONGEST_LOOK_NS)

    async def _look(self, task_id: str, number: Callable[[Connections], int]) -> int:
        """What cannot be known holds nothing up."""
        try:
            return number(await self._networks.connections(task_id))
        except MiniError:
            return 0


def drain_timeout_ns(given_ns: int) -> int:
    """Of a specification, where 0 asks for the default and a negative one for no wait."""
    return max(given_ns, 0) if given_ns else DRAIN_NS
