"""The user's terminal while it belongs to a container: raw, with its size, and with keys to detach.

Docker's rules: the keys are held back while they may become the sequence, and are passed on when they do not.
"""

from __future__ import annotations

import os
import sys

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

DETACH_KEYS = "ctrl-p,ctrl-q"

_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`: a letter, or ctrl- and one of a to z, @, [, \\, ], ^, _. Raises CliError."""
    keys = bytearray()
    for part in text.split(",") if text else ():
        name = part.removeprefix("ctrl-")
        if name != part and len(name) == 1 and name.lower() in _CONTROL:
            keys.append(_CONTROL.index(name.lower()))
        elif len(part) == 1 and part.isascii():
            keys += part.encode()
        else:
            raise CliError(f"invalid detach keys ({text}): Unknown character: '{part}'")
    return bytes(keys)


class DetachKeys:
    """Looks for the sequence in what is typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def take(self, typed: bytes) -> tuple[bytes, bool]:
        """What is to be passed on now, and whether the sequence is complete."""
        if not self._keys:
            return typed, False
        passed = bytearray()
        for number in typed:
            self._held += bytes((number,))
            while self._held and not self._keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                return bytes(passed), True
        return bytes(passed), False


def size() -> tuple[int, int]:
    """Rows and columns of the terminal on standard output; (0, 0) when there is none."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 0, 0
    return found.lines, found.columns


class Raw:
    """Inside, what is typed on standard input comes as it is, and nothing is echoed."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno()
        self._before: list[object] = []

    def __enter__(self) -> Raw:
        import termios
        import tty

        self._before = termios.tcgetattr(self._descriptor)
        tty.setraw(self._descriptor, termios.TCSANOW)  # what has been typed already is kept
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
