"""A process that outlives the daemon and can be found again.

The child's own shell writes its line of /proc/<pid>/stat to the pid file before it becomes the program, so there is no
moment at which the child runs and nobody could find it. The start time in that line tells it from a later process that
got the same pid. A pidfd tells when it ends, whoever its parent is by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicommon.clock import Clock

_SHIM = 'read -r line < /proc/$$/stat && printf "%s\\n" "$line" > "$0" && exec "$@"'

_START_TIME_FIELD = 19
"""Of the fields after the command's closing parenthesis (proc(5): field 22, `starttime`)."""

_SIGNALS_TO_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
"""Python ignores SIGPIPE, and children would inherit that."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int | None
    """Exit code, or 128 + n when signal n ended it; None when it was not our child and nobody told."""

    def __str__(self) -> str:
        return "ended" if self.code is None else f"ended with exit code {self.code}"


class Process:
    """A running process, ours or adopted."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(descriptor, self._readable)

    @classmethod
    def spawn(cls, argv: Sequence[str], *, pid_file: Path, log: Path, env: Mapping[str, str]) -> Process:
        """Start `argv` in a session of its own, its output appended to `log`. Raises OSError."""
        append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _SHIM, str(pid_file), *argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS_TO_RESET,
        )
        return cls(pid, os.pidfd_open(pid))

    @classmethod
    def adopt(cls, pid_file: Path) -> Process | None:
        """The process that wrote `pid_file`, if it still runs."""
        try:
            pid, started = _identity(pid_file.read_text())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError, IndexError):
            return None
        # Looked at again with the pidfd held: from here on the pid cannot mean another process.
        if _running_since(pid) == started:
            return cls(pid, descriptor)
        _reap(pid, descriptor, started=started)
        os.close(descriptor)
        return None

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def stop(self, *, grace_ns: int, clock: Clock) -> Ended:
        """SIGTERM, and SIGKILL when it has not ended after `grace_ns`."""
        self._signal(signal.SIGTERM)
        end = asyncio.create_task(self.wait())
        timer = asyncio.create_task(_sleep(clock, grace_ns))
        try:
            await asyncio.wait({timer, end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            end.cancel()
        if not self._ended.done():
            self._signal(signal.SIGKILL)
        return await self.wait()

    def release(self) -> None:
        """Let it run without us."""
        if not self._ended.done():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended.cancel()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            signal.pidfd_send_signal(self._descriptor, number)

    def _readable(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        try:
            result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
            exited = result is not None and result.si_code == os.CLD_EXITED
            code = None if result is None else result.si_status + (0 if exited else 128)
        except ChildProcessError:
            code = None
        os.close(self._descriptor)
        if not self._ended.done():
            self._ended.set_result(Ended(code))


async def _sleep(clock: Clock, duration_ns: int) -> None:
    await clock.sleep_until(clock.now_ns() + duration_ns)


def _identity(stat: str) -> tuple[int, str]:
    pid, _, rest = stat.partition(" ")
    return int(pid), rest.rpartition(")")[2].split()[_START_TIME_FIELD]


def _reap(pid: int, descriptor: int, *, started: str) -> None:
    """Let go of a child of ours that ended after it was released: nobody else will."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if _identity(Path(f"/proc/{pid}/stat").read_text())[1] == started:
            os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)


def _running_since(pid: int) -> str | None:
    """The start time of a living process; None for a zombie or none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state = stat.rpartition(")")[2].split()[0]
    return None if state in "ZX" else _identity(stat)[1]
