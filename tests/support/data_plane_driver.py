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


class RemoteError(Exception):
    """What the data plane raised there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Driver:
    """Calls the methods of a `KernelDataPlane` that lives in a process of its own on `host`."""

    def __init__(self, host: Host, netns_dir: Path) -> None:
        command = [sys.executable, str(Path(__file__)), str(netns_dir)]
        self._process = subprocess.Popen(host.command(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, method: str, *arguments: Any) -> Any:
        """Raises RemoteError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_encode((method, arguments)))
        self._process.stdin.flush()
        kind, value = _decode(self._process.stdout.readline())
        if kind:
            raise RemoteError(kind, value)
        return value

    def close(self) -> None:
        """End the process; what it made in the kernel stays."""
        self._process.communicate()


def _encode(value: Any) -> bytes:
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _decode(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))


async def _serve(netns_dir: Path) -> None:
    from minicommon.errors import MiniError
    from miniworker.network.plane import KernelDataPlane

    plane = KernelDataPlane(netns_dir)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        method, arguments = _decode(line)
        try:
            answer: Any = ("", await getattr(plane, method)(*arguments))
        except MiniError as error:
            answer = (type(error).__name__, str(error))
        sys.stdout.buffer.write(_encode(answer))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
