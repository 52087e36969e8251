"""A container's output as conmon writes it: `<RFC 3339 time> <stream> <F or P> <data>`, one line each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from miniworker.runtime.api import LogLine, LogQuery
from miniworker.runtime.oci import syscalls

_BLOCK = 64 << 10
_EVENT_BYTES = 4096


def parse_line(line: bytes) -> LogLine | None:
    """One line without its end; None for what conmon did not write (a line cut off by a crash)."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    moment = _time_ns(parts[0].decode(errors="replace"))
    if moment is None:
        return None
    return LogLine(parts[1].decode(), moment, parts[3], partial=parts[2].startswith(b"P"))


def _time_ns(text: str) -> int | None:
    seconds, _, rest = text.partition(".")
    digits = rest[:9]
    whole = _whole_seconds(seconds + (rest[9:] or "+00:00").replace("Z", "+00:00"))
    return whole * 1_000_000_000 + int(digits) if whole is not None and digits.isdigit() else None


@lru_cache(maxsize=64)  # thousands of lines have the same second
def _whole_seconds(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin. Reads from the end, only as far as needed."""
    with path.open("rb") as file:
        position = end = file.seek(0, os.SEEK_END)
        wanted = lines
        while position > 0 and wanted >= 0:
            start = max(0, position - _BLOCK)
            file.seek(start)
            block = file.read(position - start)
            at = len(block)
            while wanted >= 0 and (at := block.rfind(b"\n", 0, at)) >= 0:
                if start + at + 1 == end:
                    continue  # the end of the last line begins no line
                wanted -= 1
                if wanted == 0:
                    return start + at + 1
            position = start
    return 0 if lines else end


async def read(
    path: Path, wanted: LogQuery, *, ended: Callable[[], asyncio.Future[None]], offset: int = 0
) -> AsyncIterator[tuple[LogLine, ...]]:
    """The lines of the file from `offset` on, many at a time; with `follow` also those to come.

    A follower ends when `ended()` is done and all has been read. A file that has reached its limit is begun anew under
    the same name: the rest of the old one comes first.
    """
    if wanted.tail is not None:
        offset = await asyncio.to_thread(tail_offset, path, wanted.tail)
    end = ended() if wanted.follow else None
    try:
        while True:
            with path.open("rb") as file:
                file.seek(offset)
                changed = _Changes(file) if wanted.follow else None
                try:
                    async for batch in _batches(file, path, changed, end):
                        if covered := tuple(filter(wanted.covers, batch)):
                            yield covered
                        if wanted.until_ns and batch[-1].time_ns > wanted.until_ns:
                            return
                finally:
                    if changed is not None:
                        changed.close()
                if _is_at(file, path) or not wanted.follow:
                    return
            offset = 0
    finally:
        if end is not None:
            end.cancel()


async def _batches(
    file: BinaryIO, path: Path, changed: _Changes | None, end: asyncio.Future[None] | None
) -> AsyncIterator[tuple[LogLine, ...]]:
    """Of one file, until it is complete: all has ended, or another file has its name."""
    rest = b""
    while True:
        over = changed is None or end is None or end.done() or not _is_at(file, path)
        while block := await asyncio.to_thread(file.read, _BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            if parsed := tuple(line for line in map(parse_line, lines) if line is not None):
                yield parsed
        if over or changed is None or end is None:
            return
        await changed.wait(end)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True  # the container was removed, and no other file will come


class _Changes:
    """Tells when the file has grown, or lost its name to another (inotify)."""

    def __init__(self, file: BinaryIO) -> None:
        opened = Path(f"/proc/self/fd/{file.fileno()}")  # its name may be another file's already
        self._descriptor = syscalls.inotify(opened, syscalls.IN_MODIFY | syscalls.IN_ATTRIB)
        self._event = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    async def wait(self, end: asyncio.Future[None]) -> None:
        """Return when the file has changed since the last call, or `end` is done."""
        change = asyncio.ensure_future(self._event.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {change, end}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        self._event.clear()

    def _readable(self) -> None:
        os.read(self._descriptor, _EVENT_BYTES)
        self._event.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
