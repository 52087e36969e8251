"""Rotation of a container's output, for `max-file` above 1: names are shifted here, conmon begins the new file.

conmon knows how to begin its file anew (its control FIFO, command 2) and does it without losing a line: what it has
written before is in the old file, which has the name `.1` by then. It also has a limit of its own, far above, which
bounds the disk while no worker is there to rotate; beyond that it forgets its oldest output.

A full file is seen by inotify. Looking again only after `_BREATH_S` keeps a chatty container cheap, and makes a file
larger than its limit by what is written meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable

from miniworker.runtime.api import LogLimits
from miniworker.runtime.oci import logfiles
from miniworker.runtime.oci.logs import Changes, is_at
from miniworker.runtime.oci.records import ContainerFiles

logger = logging.getLogger(__name__)

_BREATH_S = 0.02
"""Some files more than one clock tick of the kernel apart, and fifty looks a second at most."""

_REOPEN = b"2 0 0\n"
"""conmon's `REOPEN_LOGS_EVENT` (conmon `src/ctrl.c`)."""

_UNATTENDED_BYTES = 16 << 20
"""conmon's own limit is at least this: a burst must not reach it before it is seen."""


def conmon_limit(limits: LogLimits) -> int:
    """Bytes after which conmon begins its file anew by itself; 0: never."""
    if limits.files == 1 or not limits.max_bytes:
        return limits.max_bytes
    return max(limits.max_bytes * limits.files, _UNATTENDED_BYTES)


class Rotator:
    """Looks after the output of running containers. Close it."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def attend(
        self,
        container_id: str,
        files: ContainerFiles,
        limits: LogLimits,
        *,
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        """Until `ended` returns. A container that is attended, or needs it not, is left as it is."""
        if limits.files == 1 or not limits.max_bytes or container_id in self._tasks:
            return
        task = asyncio.create_task(_attend(files, limits, ended), name=f"rotate {container_id}")
        self._tasks[container_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(container_id, None))

    async def leave(self, container_id: str) -> None:
        """Return when nothing touches its files any more."""
        if (task := self._tasks.pop(container_id, None)) is not None:
            task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        for container_id in tuple(self._tasks):
            await self.leave(container_id)


async def _attend(files: ContainerFiles, limits: LogLimits, ended: Callable[[], Awaitable[None]]) -> None:
    end = asyncio.ensure_future(ended())
    try:
        while not end.done():
            try:
                await _fill_and_rotate(files, limits, end)
            except FileNotFoundError:
                return  # it was removed
            except OSError as error:
                logger.warning(
                    "The output of a container cannot be rotated.",
                    extra={"task_id": files.root.name, "error": str(error)},
                )
                await asyncio.wait({end}, timeout=1)
    finally:
        end.cancel()


async def _fill_and_rotate(files: ContainerFiles, limits: LogLimits, end: asyncio.Future[None]) -> None:
    """Return when the file was full and another is written, or `end` is done."""
    with files.log.open("rb") as file:
        changed = Changes(file)
        try:
            while os.fstat(file.fileno()).st_size < limits.max_bytes:
                await changed.wait(end)
                if end.done() or not is_at(file, files.log):
                    return
                await asyncio.sleep(_BREATH_S)
            logfiles.shift(files.log, limits.files)
            _reopen(files)
            while is_at(file, files.log):
                await changed.wait(end)
                if end.done():
                    return
        finally:
            changed.close()
    if limits.compress:
        await _compress(files)


def _reopen(files: ContainerFiles) -> None:
    try:
        control = os.open(files.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # conmon has ended
    try:
        os.write(control, _REOPEN)
    finally:
        os.close(control)


async def _compress(files: ContainerFiles) -> None:
    """In a thread, which is waited for in any case: nobody shall remove the files below it."""
    stop = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(logfiles.write_compressed, files.log, stop=stop))
    try:
        packed = await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        raise
    if packed is not None:
        logfiles.take_compressed(files.log, packed)
