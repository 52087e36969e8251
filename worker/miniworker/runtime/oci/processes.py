"""Waiting for processes that are not our children, and signalling exactly the one that is meant.

A pidfd names one process for good: between opening it and using it, the number may be given to another, so the
caller's check of identity happens while the descriptor is already held.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


async def ended(pid: int, is_meant: Callable[[], bool]) -> None:
    """Return when process `pid` has ended, at once when it is gone or `is_meant` says it is another."""
    descriptor = _open(pid)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    try:
        if not is_meant():
            return
        loop.add_reader(descriptor, _settle, done)
        try:
            await done
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def send(pid: int, number: int, is_meant: Callable[[], bool]) -> None:
    """Send a signal; a process that is gone already needs none."""
    descriptor = _open(pid)
    if descriptor is None:
        return
    try:
        if is_meant():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def command_line_has(pid: int, word: str) -> bool:
    """Whether the process lives and was started with `word` as one of its arguments."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return word.encode() in words  # a zombie's command line is empty


_NO_PROCESS = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})
"""Of pidfd_open(2). After a reboot a number that we wrote down may be that of another process's thread, which has no
descriptor: EINVAL says so, and ENOENT since Linux 6.15."""


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise


def signal_number(text: str) -> int | None:
    """Of "SIGTERM", "TERM", "15" or "SIGRTMIN+3"; None for what is no signal."""
    if text.isascii() and text.isdigit():
        number = int(text)
        return number if 0 < number <= signal.SIGRTMAX else None
    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if plus and base == "RTMIN" and offset.isdigit():
        number = signal.SIGRTMIN + int(offset)
        return number if number <= signal.SIGRTMAX else None
    found = signal.Signals.__members__.get(f"SIG{name}")
    return None if found is None else int(found)
