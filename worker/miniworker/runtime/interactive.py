"""A program in a container that somebody talks to: a command run there, or the container's own first process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Command:
    """What is run in a container besides its first process; empty means: as the container has it."""

    words: tuple[str, ...]
    user: str = ""
    """name|uid[:group|gid]."""
    dir: str = ""
    env: tuple[str, ...] = ()
    """KEY=value, over the container's."""
    tty: bool = False
    stdin: bool = False
    """Else it has none to read."""
    size: Size | None = None


class Conversation(Protocol):
    """Raises RuntimeFaultError. `close` it in the end."""

    async def read(self) -> tuple[str, bytes] | None:
        """What it writes next, and on which stream ("stdout" or "stderr"); None when that is all."""

    async def write(self, data: bytes) -> None:
        """Its standard input; returns when it was taken. Ignored once it reads no more."""

    async def end_input(self) -> None:
        """There is no more."""

    def resize(self, size: Size) -> None:
        """Its terminal's, if it has one."""

    def send_signal(self, number: int) -> None:
        """To its process."""

    async def wait(self) -> int:
        """Its exit code, 128 + n when signal n ended it."""

    async def close(self) -> None:
        """Let go of it: a command ends, a container's first process goes on."""
