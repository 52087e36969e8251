"""Supervision of the node's other processes: etcd, mini-manager, mini-ingress.

A child runs in its own session, writes to a log file and is found again through its pid file, so killing the daemon
does not disturb it. One that ends is started again after a pause that doubles from 200 ms to 10 s; a child that has run
for 30 s starts over with the shortest pause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import UnavailableError
from minicommon.log import fields

from miniworker.node.process import Ended, Process

logger = logging.getLogger(__name__)

FIRST_PAUSE_NS = 200 * MILLISECOND
LONGEST_PAUSE_NS = 10 * SECOND
STEADY_NS = 30 * SECOND

LOG_CHECK_NS = 60 * SECOND
LOG_LIMIT_BYTES = 10 * 1024 * 1024
"""A log is rotated at this size; one older file is kept."""

_TAIL_BYTES = 4096
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class ChildSpec:
    name: str
    argv: tuple[str, ...]
    version: str
    stop_grace_ns: int = 10 * SECOND
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ChildState:
    """What others may know of a child."""

    pid: int = 0
    """0: it does not run."""
    restarts: int = 0
    message: str = ""
    """Why it does not run, or why it was restarted last."""


class Child:
    """One supervised process. `run` keeps it up; cancelling `run` leaves it running; `stop` ends it."""

    def __init__(self, spec: ChildSpec, *, run_dir: Path, log_dir: Path, clock: Clock) -> None:
        self.spec = spec
        self.state = ChildState()
        self._pid_file = run_dir / f"{spec.name}.pid"
        self._log = log_dir / f"{spec.name}.log"
        self._clock = clock
        self._pauses = 0
        self._death = asyncio.Event()

    @property
    def recorded(self) -> bool:
        """Whether the process has written its pid file: from then on another daemon finds it."""
        try:
            return self._pid_file.stat().st_size > 0
        except FileNotFoundError:
            return False

    async def run(self) -> None:
        adopted = Process.adopt(self._pid_file)
        if adopted:
            logger.info("Child process found running.", extra=fields(child=self.spec.name, pid=adopted.pid))
        process = adopted or self._spawn()
        while True:
            started_ns = self._clock.now_ns()
            await self._died(await self._watch(process), lived_ns=self._clock.now_ns() - started_ns)
            process = self._spawn()
            self.state.restarts += 1

    async def stop(self) -> None:
        """End it. Call it once `run` has been cancelled."""
        if process := Process.adopt(self._pid_file):
            await process.stop(grace_ns=self.spec.stop_grace_ns, clock=self._clock)
        self._pid_file.unlink(missing_ok=True)
        self.state = ChildState(restarts=self.state.restarts, message="stopped")

    async def wait_death(self) -> None:
        """Raises UnavailableError, with the end of its log, once the child has died."""
        await self._death.wait()
        raise UnavailableError(self.state.message)

    def log_tail(self) -> str:
        """The last lines that it wrote, for an error message."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])

    def _spawn(self) -> Process:
        rotate(self._log)
        process = Process.spawn(
            self.spec.argv,
            pid_file=self._pid_file,
            log=self._log,
            env={**_inherited(), **self.spec.env},
        )
        logger.info("Child process started.", extra=fields(child=self.spec.name, pid=process.pid))
        return process

    async def _watch(self, process: Process) -> Ended:
        """Wait for its end, and look after its log meanwhile."""
        self.state.pid = process.pid
        end = asyncio.ensure_future(process.wait())
        try:
            while not end.done():
                timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ns() + LOG_CHECK_NS))
                try:
                    await asyncio.wait({end, timer}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    timer.cancel()
                rotate(self._log)
            return end.result()
        finally:
            end.cancel()
            process.release()
            self.state.pid = 0

    async def _died(self, ended: Ended, *, lived_ns: int) -> None:
        tail = self.log_tail()
        self.state.message = f"{self.spec.name} {ended}" + (f": {tail}" if tail else "")
        self._death.set()
        self._pauses = 0 if lived_ns >= STEADY_NS else self._pauses
        pause_ns = min(FIRST_PAUSE_NS << min(self._pauses, 20), LONGEST_PAUSE_NS)
        self._pauses += 1
        logger.warning(
            "Child process ended; it will be started again.",
            extra=fields(child=self.spec.name, end=ended, pause_ns=pause_ns),
        )
        await self._clock.sleep_until(self._clock.now_ns() + pause_ns)


async def stop_all(children: Iterable[Child]) -> None:
    """Stop them one after the other, in this order."""
    for child in children:
        await child.stop()


async def stop_leftovers(run_dir: Path, *, clock: Clock) -> None:
    """End what an attempt left behind that did not come to a membership."""
    for pid_file in _pid_files(run_dir):
        if process := Process.adopt(pid_file):
            logger.warning("Ending a leftover process.", extra=fields(child=pid_file.stem, pid=process.pid))
            await process.stop(grace_ns=10 * SECOND, clock=clock)
        pid_file.unlink(missing_ok=True)


def _pid_files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("*.pid"))


def rotate(log: Path) -> None:
    """Copy a log that has grown too long aside and empty it: its writer appends, and goes on at the start."""
    try:
        if log.stat().st_size < LOG_LIMIT_BYTES:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(log, log.with_suffix(".log.1"))
    os.truncate(log, 0)


def _inherited() -> dict[str, str]:
    """The daemon's environment without what would steer etcd behind our back."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ETCD")}
