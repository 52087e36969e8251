"""The data plane's own loop; what it does in the kernel is tried in tests/integration/network."""

from __future__ import annotations

import asyncio
from pathlib import Path

from minicommon.clock import SECOND, VirtualClock
from miniworker.network.api import Difference
from miniworker.network.errors import NetworkError
from miniworker.network.plane import CHECK_NS, KernelDataPlane
from miniworker.network.wireguard.encryption import Encryption
from miniworker.network.wireguard.keys import KeyFile


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
    plane = Watched(
        tmp_path, Encryption(KeyFile(tmp_path / "keys.json"), clock=clock, choose=lambda: None), clock=clock
    )
    watching = asyncio.create_task(plane.watch())

    async def looks_after(duration_ns: int) -> int:
        for _ in range(3):  # until the loop sleeps
            await asyncio.sleep(0)
        clock.advance(duration_ns)
        for _ in range(3):
            await asyncio.sleep(0)
        return plane.looks

    assert await looks_after(CHECK_NS - SECOND) == 0
    assert await looks_after(SECOND) == 1
    assert await looks_after(CHECK_NS) == 2
    assert await looks_after(CHECK_NS) == 3
    watching.cancel()
