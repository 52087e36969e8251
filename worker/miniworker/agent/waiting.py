"""Pauses that something may cut short."""

from __future__ import annotations

import asyncio

from minicommon.clock import Clock


async def sleep_unless(event: asyncio.Event, *, clock: Clock, duration_ns: int) -> None:
    """Sleep for `duration_ns`, or until `event` is set."""
    sleep = asyncio.ensure_future(clock.sleep_until(clock.now_ns() + duration_ns))
    woken = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({sleep, woken}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleep.cancel()
        woken.cancel()
