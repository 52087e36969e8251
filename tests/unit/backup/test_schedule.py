"""Scheduled backups: when they are made, which stay, and what a failure does. On a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.errors import InvalidArgumentError, UnavailableError
from minimanager.backup.schedule import RETRY_NS, BackupSchedule, ScheduledBackups, schedule_of

HOUR_NS = 3600 * SECOND
START_NS = 1_800_000_000 * SECOND


class WatchedClock(VirtualClock):
    """`waiting`: somebody sleeps until a moment that is still to come."""

    waiting = False

    async def sleep_until(self, when_ns: int) -> None:
        self.waiting = when_ns > self.now_ns()
        await super().sleep_until(when_ns)
        self.waiting = False


class Maker:
    """Makes a file of the passphrase that it was given; fails as often as told."""

    def __init__(self) -> None:
        self.failures = 0
        self.asked = 0

    async def file(self, passphrase: bytes) -> AsyncIterator[bytes]:
        self.asked += 1
        yield b"half of "
        if self.failures:
            self.failures -= 1
            raise UnavailableError("etcd does not answer")
        yield passphrase


@pytest.fixture
def schedule(tmp_path: Path) -> BackupSchedule:
    (tmp_path / "passphrase").write_text("correct horse\n")
    return BackupSchedule(tmp_path / "backups", HOUR_NS, 2, tmp_path / "passphrase")


async def started(schedule: BackupSchedule, maker: Maker, clock: WatchedClock) -> asyncio.Task[None]:
    return asyncio.create_task(ScheduledBackups(schedule, maker, clock).run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is awaited is on the disk
            await asyncio.sleep(0.001)


def names(schedule: BackupSchedule) -> list[str]:
    """Of what is there and not being written now."""
    there = schedule.directory.iterdir() if schedule.directory.exists() else ()
    return sorted(path.name for path in there if path.suffix == ".backup")


async def test_one_at_once_then_every_interval_and_the_newest_stay(schedule: BackupSchedule) -> None:
    maker, clock = Maker(), WatchedClock(START_NS)
    running = await started(schedule, maker, clock)
    try:
        await until(lambda: len(names(schedule)) == 1)
        first = schedule.directory / names(schedule)[0]
        assert first.read_bytes() == b"half of correct horse"
        assert first.stat().st_mode & 0o777 == 0o600
        (schedule.directory / "somebody-elses.backup").touch()
        for _ in range(2):
            await until(lambda: clock.waiting)
            made = maker.asked
            clock.advance(HOUR_NS)
            await until(lambda made=made: maker.asked == made + 1)  # type: ignore[misc]
        await until(lambda: len(names(schedule)) == 3 and first.name not in names(schedule))
        assert "somebody-elses.backup" in names(schedule)
    finally:
        running.cancel()


async def test_a_manager_that_starts_again_waits_for_the_next(schedule: BackupSchedule) -> None:
    maker, clock = Maker(), WatchedClock(START_NS)
    await ScheduledBackups(schedule, maker, clock).make()
    clock.advance(HOUR_NS // 2)
    running = await started(schedule, maker, clock)
    try:
        await until(lambda: clock.waiting)
        assert maker.asked == 1
        clock.advance(HOUR_NS // 2)
        await until(lambda: len(names(schedule)) == 2)
    finally:
        running.cancel()


async def test_a_failure_leaves_nothing_and_is_tried_again_soon(
    schedule: BackupSchedule, caplog: pytest.LogCaptureFixture
) -> None:
    maker, clock = Maker(), WatchedClock(START_NS)
    maker.failures = 1
    running = await started(schedule, maker, clock)
    try:
        await until(lambda: clock.waiting)
        assert list(schedule.directory.iterdir()) == []
        assert "The backup failed; trying again." in caplog.text
        clock.advance(RETRY_NS)
        await until(lambda: len(names(schedule)) == 1)
    finally:
        running.cancel()


def test_the_flags_are_checked() -> None:
    assert schedule_of(None, "nonsense", 0, None) is None
    made = schedule_of(Path("/b"), "6h", 3, None)
    assert made == BackupSchedule(Path("/b"), 6 * HOUR_NS, 3)
    with pytest.raises(InvalidArgumentError, match="--backup-interval: must be 10s or longer, got 9s"):
        schedule_of(Path("/b"), "9s", 3, None)
    with pytest.raises(InvalidArgumentError, match="--backup-keep: must be at least 1, got 0"):
        schedule_of(Path("/b"), "6h", 0, None)
