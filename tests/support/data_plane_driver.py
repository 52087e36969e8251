"""A data plane on a test host, driven by a test: a process there that does one call per line."""

from __future__ import annotations

import asyncio
import base64
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.hosts import Host


LOG = "data-plane.log"
"""Among the host's files."""


class RemoteError(Exception):
    """What the data plane raised there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Driver:
    """Calls the methods of a `KernelDataPlane` that lives in a process of its own on `host`, or reads a property."""

    def __init__(self, host: Host, netns_dir: Path) -> None:
        command = [sys.executable, str(Path(__file__)), str(netns_dir)]
        with (host.directory / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                host.command(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def call(self, method: str, *arguments: Any) -> Any:
        """Raises RemoteError."""
        return self.call_all((method, *arguments))[0]

    def call_all(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Make the calls, each a method and its arguments, at the same time; the first that failed is raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_encode(calls))
        self._process.stdin.flush()
        answers = _decode(self._process.stdout.readline())
        for kind, value in answers:
            if kind:
                raise RemoteError(kind, value)
        return [value for _, value in answers]

    def close(self) -> None:
        """End the process; what it made in the kernel stays."""
        self._process.communicate()


def _encode(value: Any) -> bytes:
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _decode(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))


async def _serve(netns_dir: Path) -> None:
    from minicommon.clock import SystemClock
    from minicommon.errors import MiniError
    from minicommon.log import configure
    from miniworker.network.plane import KernelDataPlane
    from miniworker.network.wireguard.encryption import Encryption
    from miniworker.network.wireguard.keys import KeyFile

    configure()
    clock = SystemClock()
    encryption = Encryption(KeyFile(netns_dir.parent / "wireguard.json"), clock=clock)
    plane = KernelDataPlane(netns_dir, encryption)
    watching = asyncio.create_task(encryption.watch())

    async def answer(method: str, *arguments: Any) -> tuple[str, Any]:
        try:
            member = getattr(plane, method)
            return "", await member(*arguments) if callable(member) else member
        except MiniError as error:
            return type(error).__name__, str(error)

    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        answers = await asyncio.gather(*(answer(*call) for call in _decode(line)))
        sys.stdout.buffer.write(_encode(answers))
        sys.stdout.buffer.flush()
    watching.cancel()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
