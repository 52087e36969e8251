"""Appends records to `audit.jsonl`, and reads them back.

A line is written before its call is answered, so a record outlives the process; the disk is asked to keep it right
after, so a power cut may cost those of the last moment. A full file becomes `audit.jsonl.1`, and so on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from minicommon.log import fields
from minicommon.rpc.audit import Record

logger = logging.getLogger(__name__)

FILE_BYTES: Final = 16 * 1024 * 1024
"""Of one file: about 60,000 records."""

OLDER_FILES: Final = 8
"""Kept beside the present one, so the journal takes at most 144 MiB."""

_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Query:
    """Which records are wanted. Empty: all. Times are nanoseconds since the epoch."""

    since_ns: int = 0
    until_ns: int = 0
    name: str = ""
    """The CN of who called, or a kind of caller."""
    method: str = ""
    """A part of the method's name, whatever its case."""

    def wants(self, record: Record) -> bool:
        return (
            record.at_ns >= self.since_ns
            and (not self.until_ns or record.at_ns < self.until_ns)
            and (not self.name or self.name in (record.name, record.caller))
            and self.method.lower() in record.method.lower()
        )


class FileJournal:
    """The journal in one directory. `manager` is the node id that its records get."""

    def __init__(
        self, directory: Path, *, manager: str, file_bytes: int = FILE_BYTES, older_files: int = OLDER_FILES
    ) -> None:
        self._path = directory / "audit.jsonl"
        self._manager = manager
        self._file_bytes = file_bytes
        self._older_files = older_files
        self._descriptor = -1
        self._size = 0
        self._syncing: asyncio.Task[None] | None = None
        self._unsynced = False

    def write(self, record: Record) -> None:
        """Append it. What goes wrong is logged: the call itself is done."""
        line = json.dumps(dataclasses.asdict(dataclasses.replace(record, manager=self._manager))) + "\n"
        data = line.encode()
        try:
            self._open()
            os.write(self._descriptor, data)
        except OSError as error:
            logger.error("An audit record could not be written.", extra=fields(error=error, record=line))
            self.close()
            return
        self._size += len(data)
        self._sync_soon()
        if self._size >= self._file_bytes:
            self._rotate()

    def read(self, query: Query, *, limit: int) -> list[Record]:
        """The newest `limit` records that are wanted, oldest first. No more than these are in memory at once."""
        found: list[Record] = []
        for path in self._files():
            wanted = (record for record in _records(path) if query.wants(record))
            found = [*deque(wanted, maxlen=limit - len(found)), *found]
            if len(found) >= limit:
                break
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, _MODE)
        self._size = os.fstat(self._descriptor).st_size
        if self._size and not _ends_with_newline(self._path):
            os.write(self._descriptor, b"\n")  # a power cut left half a line

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _files(self) -> Iterator[Path]:
        """The newest first."""
        yield self._path
        for number in count(1):
            if not (path := self._older(number)).exists():
                return
            yield path

    def _rotate(self) -> None:
        os.fsync(self._descriptor)
        self.close()
        for number in range(self._older_files, 0, -1):
            source = self._older(number - 1) if number > 1 else self._path
            if source.exists():
                source.replace(self._older(number))

    def _sync_soon(self) -> None:
        """Ask the disk, once at a time: what is written meanwhile goes with the next time."""
        self._unsynced = True
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync(), name="audit: sync")

    async def _sync(self) -> None:
        while self._unsynced and self._descriptor >= 0:
            self._unsynced = False
            descriptor = os.dup(self._descriptor)
            try:
                await asyncio.to_thread(os.fdatasync, descriptor)
            except OSError as error:
                logger.error("The audit journal could not be synced.", extra=fields(error=error))
            finally:
                os.close(descriptor)


def _records(path: Path) -> Iterator[Record]:
    """Those of one file, oldest first; a line that is none, which a power cut may leave, is passed over."""
    make: Callable[..., Record] = Record
    try:
        with path.open() as file:
            for line in file:
                try:
                    yield make(**json.loads(line))
                except (ValueError, TypeError):
                    continue
    except FileNotFoundError:
        return


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
