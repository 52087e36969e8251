"""The files of a container's output: the one that conmon writes, and with `max-file` those that were full before.

`output.log` is the newest, then come `output.log.1`, `output.log.2` and so on, or `output.log.2.gz`: Docker's names.
A file has names that change, so a reader knows it by what stays (`Identity`): its inode, and once nobody writes to it
any more the time of its last change, which its compressed form has, too.

Everything here is done at once, without a pause in which the event loop could run something else, so readers never see
the names half shifted. Only conmon begins a new `output.log` on its own: until then the old one may have both names.
"""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays of a file while its name changes."""

    inode: int
    modified_at_ns: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of output, whatever its name is by now. Close it."""

    file: BinaryIO | gzip.GzipFile
    """What is in it, decompressed."""
    raw: BinaryIO
    compressed: bool

    @property
    def identity(self) -> Identity:
        found = os.fstat(self.raw.fileno())
        return Identity(found.st_ino, found.st_mtime_ns)

    def is_what_became_of(self, identity: Identity) -> bool:
        """Two files that are full do not have one time: `rotation` waits between them."""
        own = self.identity
        return own.inode == identity.inode or (
            self.compressed and own.modified_at_ns == identity.modified_at_ns
        )

    def close(self) -> None:
        self.file.close()
        self.raw.close()


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the output: what comes after it is in this file, and in those that are newer."""

    inode: int
    offset: int


def rotated(log: Path) -> Iterator[Path]:
    """The files that were full, newest first."""
    number = 1
    while (path := _existing(log, number)) is not None:
        yield path
        number += 1


def open_newest_first(log: Path) -> list[Opened]:
    """Every file that is there, each once."""
    found: list[Opened] = []
    for path in (log, *rotated(log)):
        opened = _open(path)
        if opened is None:
            continue
        if found and opened.identity.inode == found[-1].identity.inode:
            opened.close()
            continue
        found.append(opened)
    return found


def open_after(log: Path, last: Identity) -> list[Opened]:
    """The files that are newer than `last`, oldest first: all of them, if it is there no more."""
    newer: list[Opened] = []
    found = open_newest_first(log)
    for index, opened in enumerate(found):
        if opened.is_what_became_of(last):
            for older in found[index:]:
                older.close()
            break
        newer.append(opened)
    return newer[::-1]


def open_from(log: Path, start: Position | None) -> list[Opened]:
    """What there is after `start`, oldest first and the first at its place; None: everything."""
    found = open_newest_first(log)
    if start is not None:
        for index, opened in enumerate(found):
            if opened.identity.inode == start.inode:
                for older in found[index + 1 :]:
                    older.close()
                opened.file.seek(start.offset)
                return found[index::-1]
    return found[::-1]


def end_of(log: Path) -> Position:
    """Where the next line will be."""
    found = log.stat()
    return Position(found.st_ino, found.st_size)


def shift(log: Path, files: int) -> None:
    """Give the full `log` the name `.1`, the older ones the next numbers, and keep `files` in all.

    May be repeated when it was broken off: what has the name `.1` already keeps it.
    """
    first = _numbered(log, 1)
    if first.exists() and first.samefile(log):
        return
    for number in range(len(list(rotated(log))), 0, -1):
        for path in _both(log, number):
            if number + 1 >= files:
                path.unlink()
            else:
                path.rename(path.with_name(path.name.replace(f".{number}", f".{number + 1}", 1)))
    os.link(log, first)


def write_compressed(log: Path, *, stop: threading.Event) -> Path | None:
    """Write the compressed form of `.1` beside it; None: there is nothing to compress, or it was stopped. Blocks."""
    source = _numbered(log, 1)
    if not source.exists():
        return None
    before = source.stat()
    target = log.with_name(f"{log.name}.packed")
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        while block := plain.read(1 << 20):
            if stop.is_set():
                return None
            packed.write(block)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    return target


def take_compressed(log: Path, packed: Path) -> None:
    """The compressed form instead of the plain one."""
    source = _numbered(log, 1)
    packed.rename(source.with_name(f"{source.name}.gz"))
    source.unlink()


def _numbered(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


def _both(log: Path, number: int) -> list[Path]:
    """The file of that number, compressed or not; both where exchanging one for the other was broken off."""
    plain = _numbered(log, number)
    return [path for path in (plain.with_name(f"{plain.name}.gz"), plain) if path.exists()]


def _existing(log: Path, number: int) -> Path | None:
    return next(iter(_both(log, number)), None)


def _open(path: Path) -> Opened | None:
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        return None  # of a container that has not been started, or that conmon keeps no output of
    if path.suffix != ".gz":
        return Opened(raw, raw, compressed=False)
    return Opened(gzip.open(raw), raw, compressed=True)
