"""Backups that the manager makes by itself: into a directory, now and then, the newest few kept.

The names of the files order them by time, and are all that is remembered: a manager that starts again makes the next
one when it is due, not at once. One that fails is said in the log as an error and tried again soon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from minicommon.clock import SECOND, Clock
from minicommon.errors import InvalidArgumentError, MiniError
from minicommon.log import fields
from minicommon.units import format_duration, parse_duration

logger = logging.getLogger(__name__)

SHORTEST_INTERVAL_NS: Final = 10 * SECOND
RETRY_NS: Final = 60 * SECOND
"""After a backup that failed, unless the next is due earlier."""

_NAME: Final = re.compile(r"mini-(\d{8}T\d{6}Z)\.backup")
_TIME: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class BackupSchedule:
    directory: Path
    interval_ns: int
    keep: int
    passphrase_file: Path | None = None
    """None: sealed with the unlock key, which there must be then."""


def schedule_of(
    directory: Path | None, interval: str, keep: int, passphrase_file: Path | None
) -> BackupSchedule | None:
    """From the command line; None without a directory. Raises InvalidArgumentError."""
    if directory is None:
        return None
    interval_ns = parse_duration(interval)
    if interval_ns < SHORTEST_INTERVAL_NS:
        raise InvalidArgumentError(
            f"--backup-interval: must be {format_duration(SHORTEST_INTERVAL_NS)} or longer, got {interval}"
        )
    if keep < 1:
        raise InvalidArgumentError(f"--backup-keep: must be at least 1, got {keep}")
    return BackupSchedule(directory, interval_ns, keep, passphrase_file)


class Maker(Protocol):
    """`minimanager.backup.making.BackupMaker`."""

    def file(self, passphrase: bytes) -> AsyncIterator[bytes]: ...


class ScheduledBackups:
    """`run` for as long as the manager lives."""

    def __init__(self, schedule: BackupSchedule, maker: Maker, clock: Clock) -> None:
        self._schedule = schedule
        self._maker = maker
        self._clock = clock

    async def run(self) -> None:
        schedule = self._schedule
        while True:
            newest = await asyncio.to_thread(_newest_ns, schedule.directory)
            await self._clock.sleep_until(newest + schedule.interval_ns)
            try:
                path = await self.make()
            except (MiniError, OSError) as error:
                logger.error(
                    "The backup failed; trying again.",
                    extra=fields(directory=schedule.directory, error=error),
                )
                pause_ns = min(RETRY_NS, schedule.interval_ns)
                await self._clock.sleep_until(self._clock.now_ns() + pause_ns)
            else:
                logger.info("Backup made.", extra=fields(file=path))

    async def make(self) -> Path:
        """One now, and no more than wanted are kept. Raises MiniError, OSError."""
        schedule = self._schedule
        await asyncio.to_thread(schedule.directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        made_at = datetime.fromtimestamp(self._clock.now_ns() // SECOND, UTC)
        path = schedule.directory / f"mini-{made_at.strftime(_TIME)}.backup"
        await self._write(path, await asyncio.to_thread(self._passphrase))
        for old in (await asyncio.to_thread(_files, schedule.directory))[: -schedule.keep]:
            old.unlink(missing_ok=True)
        return path

    def _passphrase(self) -> bytes:
        file = self._schedule.passphrase_file
        return b"" if file is None else file.read_bytes().rstrip(b"\r\n")

    async def _write(self, path: Path, passphrase: bytes) -> None:
        """The whole file or none, durably."""
        fresh = path.with_suffix(".next")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for data in self._maker.file(passphrase):
                    await asyncio.to_thread(file.write, data)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            await asyncio.to_thread(fresh.replace, path)
            await asyncio.to_thread(_sync, path.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                fresh.unlink()
            raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path) -> list[Path]:
    """Our backups there, oldest first. What else is there is left alone."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _newest_ns(directory: Path) -> int:
    files = _files(directory)
    match = _NAME.fullmatch(files[-1].name) if files else None
    if match is None:
        return 0
    return int(datetime.strptime(match[1], _TIME).replace(tzinfo=UTC).timestamp()) * SECOND
