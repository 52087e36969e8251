"""Talking to a program in a container: what is typed goes one way, what it writes comes the other.

One thread waits for all of it: the daemon's socket, standard input, and signals. Output is written before more is read,
so a slow terminal or pipe slows the container's reader down, never the memory.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from minicommon.errors import DeadlineError

from minictl import terminal
from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from miniproto.v1.streams_pb2 import StreamInput, StreamOutput

    from minictl.client.channel import Duplex

BLOCK = 32 << 10
"""Bytes of standard input in one message."""

_POLL_SECONDS = 0.001
"""How long a half-arrived message is waited for before the other sources are looked at."""

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class DetachedError(CliError):
    """The user has typed the detach keys; the container goes on."""

    exit_code = 0


class Conversation:
    """One call. `wrap` makes its request of an input; `unwrap` finds the output in its response, or None."""

    def __init__(
        self,
        call: Duplex,
        wrap: Callable[[StreamInput], Any],
        unwrap: Callable[[Any], StreamOutput | None],
        *,
        stdin: bool,
        tty: bool,
        forward_signals: bool = False,
        detach_keys: str = terminal.DETACH_KEYS,
    ) -> None:
        self._call = call
        self._wrap = wrap
        self._unwrap = unwrap
        self._stdin = stdin
        self._tty = tty
        self._forward_signals = forward_signals
        self._keys = terminal.DetachKeys(terminal.parse_keys(detach_keys) if tty else b"")
        self._started = False
        self._code: int | None = None
        self._ended = False

    def run(self) -> int:
        """Until the program has ended; its exit code. Raises DetachedError."""
        if self._tty and self._stdin and sys.stdin.isatty():
            with terminal.Raw():
                return self._run()
        return self._run()

    def _run(self) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, _ignore) for number in self._signals()}
        try:
            return self._loop(reader)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)
            self._call.cancel()

    def _signals(self) -> list[int]:
        """Those that are passed on, and that of a new size. Ctrl-C of a command without a terminal is the user's."""
        names = _FORWARDED if self._forward_signals and not self._tty else ()
        numbers = [int(getattr(signal, name)) for name in names]
        return [*numbers, int(signal.SIGWINCH)] if self._tty else numbers

    def _loop(self, wakeups: int) -> int:
        while True:
            self._drain()
            if self._ended:
                if self._code is None:
                    raise CliError("the daemon ended the call before the program had ended")
                return self._code
            waiting = [self._call.fileno(), wakeups]
            if self._stdin and self._started:
                waiting.append(sys.stdin.fileno())
            readable, _, _ = select.select(waiting, [], [])
            if wakeups in readable:
                self._signalled(os.read(wakeups, 256))
            if self._stdin and sys.stdin.fileno() in readable:
                self._typed()

    def _drain(self) -> None:
        """Take in everything that has arrived."""
        while not self._ended:
            try:
                response = self._call.receive(_POLL_SECONDS)
            except DeadlineError:
                return
            if response is None:
                self._ended = True
            elif (output := self._unwrap(response)) is not None:
                self._take(output)

    def _take(self, output: StreamOutput) -> None:
        if output.HasField("stdout"):
            _write(sys.stdout.fileno(), output.stdout)
        elif output.HasField("stderr"):
            _write(sys.stderr.fileno(), output.stderr)
        elif output.HasField("exited"):
            self._code = output.exited.code
        elif output.HasField("started"):
            self._started = True
            if self._tty:
                self._resize()

    def _typed(self) -> None:
        from minictl.client import messages

        try:
            data = os.read(sys.stdin.fileno(), BLOCK)
        except OSError:
            data = b""
        if not data:
            self._stdin = False
            self._call.send(self._wrap(messages.StreamInput(end=True)))
            return
        passed, detached = self._keys.take(data)
        if passed:
            self._call.send(self._wrap(messages.StreamInput(data=passed)))
        if detached:
            raise DetachedError("read escape sequence")

    def _signalled(self, numbers: bytes) -> None:
        from minictl.client import messages

        for number in numbers:
            if number == signal.SIGWINCH:
                self._resize()
            elif self._forward_signals:
                self._call.send(self._wrap(messages.StreamInput(signal=number)))

    def _resize(self) -> None:
        from minictl.client import messages

        rows, columns = terminal.size()
        if rows and columns:
            size = messages.TerminalSize(rows=rows, columns=columns)
            self._call.send(self._wrap(messages.StreamInput(resize=size)))


def _ignore(number: int, frame: object) -> None:
    """The number comes through the wake-up descriptor."""


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
