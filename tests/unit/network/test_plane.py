"""The data plane's own loop; what it does in the kernel is tried in tests/integration/network."""

from __future__ import annotations

import asyncio
from pathlib import Path

from minicommon.clock import SECOND, VirtualClock
from miniworker.network.api import Difference
from miniworker.network.errors import NetworkError
from miniworker.network.plane import CHECK_NS, KernelDataPlane


class Watched(KernelDataPlane):
    """Counts its looks; the second one fails."""

    looks = 0

    async def repair(self) -> tuple[Difference, ...]:
        self.looks += 1
        if self.looks == 2:
            raise NetworkError("the kernel is in trouble")
        return ()


async def test_the_kernel_is_looked_at_every_half_minute_whatever_came_of_it(tmp_path: Path) -> None:
    clock = VirtualClock()
    plane = Watched(tmp_path, clock=clock)
    watching = asyncio.create_task(plane.watch())
    try:
        await clock.advance(CHECK_NS - SECOND)
        assert plane.looks == 0
        for looks in (1, 2, 3):
            await clock.advance(SECOND if looks == 1 else CHECK_NS)
            assert plane.looks == looks
    finally:
        watching.cancel()
