"""Processes by numbers that may belong to others by now."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from miniworker.runtime.oci import processes


@pytest.fixture
def thread() -> Iterator[int]:
    """The number of a thread that leads no process."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    over.set()
    thread.join()


async def test_a_number_that_has_become_a_threads_is_no_process(thread: int) -> None:
    await processes.ended(thread, lambda: True)
    processes.send(thread, signal.SIGKILL, lambda: True)
    assert str(thread) in os.listdir("/proc/self/task")


async def test_the_end_of_a_process_that_is_no_child_is_waited_for() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    waiting = asyncio.create_task(processes.ended(process.pid, lambda: True))
    await asyncio.sleep(0)
    assert not waiting.done()
    processes.send(process.pid, signal.SIGKILL, lambda: False)
    processes.send(process.pid, signal.SIGKILL, lambda: True)
    await waiting
    assert await process.wait() == -signal.SIGKILL
    await processes.ended(process.pid, lambda: True)
