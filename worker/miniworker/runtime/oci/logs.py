"""A container's output as conmon writes it: `<RFC 3339 time> <stream> <F or P> <data>`, one line each."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from miniworker.runtime.api import LogLine, LogQuery
from miniworker.runtime.oci import logfiles, syscalls
from miniworker.runtime.oci.logfiles import Opened, Position

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


def tail(files: list[Opened], lines: int) -> list[Opened]:
    """Those of `files`, oldest first, that hold the last `lines` lines, the first at its place; closes the others."""
    wanted = lines
    kept: list[Opened] = []
    for opened in reversed(files):
        if kept and not wanted:
            opened.close()
            continue
        offset, found = (_tail_of_stream if opened.compressed else tail_offset)(opened.file, wanted)
        opened.file.seek(offset)
        wanted -= found
        kept.append(opened)
    return kept[::-1]


def _tail_of_stream(file: BinaryIO | gzip.GzipFile, lines: int) -> tuple[int, int]:
    """As `tail_offset`, for what can only be read from its beginning."""
    begins: deque[int] = deque(maxlen=lines)
    position = 0
    whole = True
    for record in file:
        if whole:
            begins.append(position)
        whole = _is_whole(record)
        position += len(record)
    return (begins[0] if begins else position), len(begins)


def tail_offset(file: BinaryIO | gzip.GzipFile, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines begin, and how many of them there are. Reads from the end, only as far as needed.

    conmon writes what it gets at once, so a line may be in more than one record: all but its last are partial.
    """
    position = begin = end = file.seek(0, os.SEEK_END)
    found = 0
    rest = b""
    while position > 0 and lines:
        start = max(0, position - _BLOCK)
        file.seek(start)
        block = file.read(position - start) + rest
        at = start + len(block)
        rest, *records = block.split(b"\n") if start else [b"", *block.split(b"\n")]
        for record in reversed(records):
            at -= len(record)
            if at < end and _is_whole(record):  # what is after the last line's end is none
                if found == lines:
                    return begin, found
                found += 1
            begin = min(begin, at)
            at -= 1
        position = start
    return begin, found


def _is_whole(record: bytes) -> bool:
    """Whether a line ends with it."""
    return record.split(b" ", 3)[2:3] != [b"P"]


async def read(
    log: Path, wanted: LogQuery, *, ended: Callable[[], asyncio.Future[None]], start: Position | None = None
) -> AsyncIterator[tuple[LogLine, ...]]:
    """The lines from `start` on, oldest first, many at a time; with `follow` also those to come.

    A follower ends when `ended()` is done and all has been read. Files that were full come before the one that is
    written; when another takes its place meanwhile, what is left of it comes first.
    """
    files = logfiles.open_from(log, start)
    if wanted.tail is not None:
        files = await asyncio.to_thread(tail, files, wanted.tail)
    end = ended() if wanted.follow else None
    try:
        while files:
            opened = files[0]
            newest = len(files) == 1
            changed = Changes(opened.raw) if end is not None and newest else None
            try:
                async for batch in _batches(opened, log, changed, end):
                    if covered := tuple(filter(wanted.covers, batch)):
                        yield covered
                    if wanted.until_ns and batch[-1].time_ns > wanted.until_ns:
                        return
            finally:
                if changed is not None:
                    changed.close()
            if newest and end is not None and not is_at(opened.raw, log):
                files += logfiles.open_after(log, opened.identity)
            files.pop(0).close()
    finally:
        for opened in files:
            opened.close()
        if end is not None:
            end.cancel()


async def _batches(
    opened: Opened, log: Path, changed: Changes | None, end: asyncio.Future[None] | None
) -> AsyncIterator[tuple[LogLine, ...]]:
    """Of one file, until it is complete: all has ended, or another file has its name."""
    rest = b""
    while True:
        over = changed is None or end is None or end.done() or not is_at(opened.raw, log)
        while block := await asyncio.to_thread(opened.file.read, _BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            if parsed := tuple(line for line in map(parse_line, lines) if line is not None):
                yield parsed
        if over or changed is None or end is None:
            return
        await changed.wait(end)


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True  # the container was removed, and no other file will come


class Changes:
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
