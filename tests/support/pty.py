"""A program on a pseudo-terminal, as a user's shell would start it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CURSOR_ASKED, CURSOR_TOLD = b"\x1b[6n", b"\x1b[24;80R"
"""Line editors that were not told the size ask where the cursor is (ECMA-48, DSR), and a terminal answers."""


class OnTerminal:
    """`command` on a terminal of its own; `until` reads what it shows."""

    def __init__(self, command: Sequence[str], *, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.shown = b""
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the programs on it."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: bytes, *, timeout: float = 30) -> bytes:
        """What it has shown since the last call, up to and with `text`."""
        deadline = time.monotonic() + timeout
        seen = self._rest
        while text not in seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._master], [], [], max(left, 0))
            if not ready:
                raise AssertionError(f"{text!r} was not shown within {timeout} s: {self.shown + seen!r}")
            try:
                data = os.read(self._master, 4096)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"it ended without showing {text!r}: {self.shown + seen!r}")
            if CURSOR_ASKED in data:
                self.type(CURSOR_TOLD)
            seen += data
        end = seen.index(text) + len(text)
        self._rest = seen[end:]
        self.shown += seen[:end]
        return seen[:end]

    def ended(self, *, timeout: float = 30) -> int:
        """Its exit code, once it has ended and all it showed is read."""
        while True:
            try:
                ready, _, _ = select.select([self._master], [], [], timeout)
                data = os.read(self._master, 4096) if ready else b""
            except OSError:
                break
            if not data:
                break
            self.shown += data
        return self.process.wait(timeout)

    @property
    def is_raw(self) -> bool:
        """Whether what is typed is neither echoed nor gathered into lines."""
        flags = termios.tcgetattr(self._master)[3]
        return not flags & (termios.ECHO | termios.ICANON)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
