"""Running a command inside a container through the OCI runtime's `exec`, with an end in time.

The command writes into a pipe that is read as it fills; only its beginning is kept. What it leaves running in the
background may hold the pipe open: its own end is what counts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from miniworker.runtime.api import SECOND, Execution
from miniworker.runtime.oci import cgroups, processes
from miniworker.runtime.oci.records import read_number

MAX_OUTPUT = 4096
"""Bytes that are kept (Docker's `maxOutputLen`)."""


async def execute(
    arguments: tuple[str, ...], *, container_id: str, pid_file: Path, timeout_ns: int
) -> Execution:
    """Run the OCI runtime with `arguments`, which make it write the command's pid into `pid_file`."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writer, True)
    output = _Output(reader)
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(timeout_ns / SECOND):
                code = await process.wait()
        except BaseException as error:
            _kill(process, container_id, pid_file)
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
            return Execution(128 + signal.SIGKILL, output.read(), timed_out=True)
        return Execution(code if code >= 0 else 128 - code, output.read())
    finally:
        output.close()


def _kill(process: asyncio.subprocess.Process, container_id: str, pid_file: Path) -> None:
    """The command inside, then the OCI runtime that waits for it."""
    pid = read_number(pid_file)
    if pid is not None:
        processes.send(pid, signal.SIGKILL, lambda: cgroups.holds(pid, container_id))
    if process.returncode is None:
        process.kill()


class _Output:
    """Takes in what is written, so that the writer never stands still, and keeps the beginning."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = bytearray()
        asyncio.get_running_loop().add_reader(descriptor, self._take)

    def read(self) -> bytes:
        """What has been written so far."""
        while self._take():
            pass
        return bytes(self._kept)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _take(self) -> bool:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._kept += data[: MAX_OUTPUT - len(self._kept)]
        return bool(data)
