"""Running a command in a container for somebody who talks to it: the OCI runtime's `exec` on pipes or on a terminal.

With a terminal the OCI runtime itself sits on a pseudo-terminal of ours and passes everything on to the one inside the
container, whose size follows ours. The command does not outlive the conversation.
A command has begun when the OCI runtime has written its pid; when that ends without, the command could not be started.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import tempfile
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from miniworker.runtime.api import RuntimeFaultError
from miniworker.runtime.interactive import Size
from miniworker.runtime.oci import cgroups, processes, syscalls
from miniworker.runtime.oci.explain import explain
from miniworker.runtime.oci.records import read_number

BLOCK = 64 << 10
"""Bytes that are read at once."""

PID = "pid"
LOG = "log"
"""Files of a launch's folder that the OCI runtime is to write."""


class Reader:
    """A descriptor that is read when there is something, and only when somebody asks. Owns it."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._open = True

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        while self._open:
            try:
                return os.read(self._descriptor, BLOCK)
            except BlockingIOError:
                await _ready(self._descriptor, asyncio.get_running_loop().add_reader, _remove_reader)
            except OSError:  # EIO: the last process on the terminal has ended
                break
        return b""

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


class Writer:
    """A descriptor that is written to as it takes. Owns it."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._open = True

    async def write(self, data: bytes) -> None:
        """Returns when all was taken, or when nobody reads any more."""
        view = memoryview(data)
        while view and self._open:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await _ready(self._descriptor, asyncio.get_running_loop().add_writer, _remove_writer)
            except OSError:
                return

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


async def _ready(descriptor: int, add: Callable[..., None], remove: Callable[[int], object]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(descriptor, _settle, done)
    try:
        await done
    finally:
        remove(descriptor)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _remove_reader(descriptor: int) -> object:
    return asyncio.get_running_loop().remove_reader(descriptor)


def _remove_writer(descriptor: int) -> object:
    return asyncio.get_running_loop().remove_writer(descriptor)


class Merged:
    """What two readers give, as it comes."""

    def __init__(self, readers: dict[str, Reader]) -> None:
        self._readers = readers
        self._reading: dict[asyncio.Task[bytes], str] = {}

    async def read(self) -> tuple[str, bytes] | None:
        while self._readers:
            busy = set(self._reading.values())
            for name in self._readers.keys() - busy:
                self._reading[asyncio.ensure_future(self._readers[name].read())] = name
            done, _ = await asyncio.wait(self._reading, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            name = self._reading.pop(task)
            if data := task.result():
                return name, data
            self._readers.pop(name).close()
        return None

    async def close(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        for reader in self._readers.values():
            reader.close()


class Talk:
    """Implements `Conversation` over a process of the OCI runtime. Make it with `talk`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        launch: Launch,
        output: Merged,
        input: Writer,
        terminal: int | None = None,
    ) -> None:
        self._process = process
        self._launch = launch
        self._output = output
        self._input = input
        self._terminal = terminal
        self._folder = Path(launch.folder.name)

    async def started(self) -> None:
        """Return once the command runs. Raises RuntimeFaultError when it cannot be started."""
        waiting = {
            asyncio.ensure_future(_appears(self._folder / PID)),
            asyncio.ensure_future(self._process.wait()),
        }
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        if not (self._folder / PID).exists():
            raise RuntimeFaultError(explain((self._folder / LOG).read_text(errors="replace")))

    async def read(self) -> tuple[str, bytes] | None:
        return await self._output.read()

    async def write(self, data: bytes) -> None:
        await self._input.write(data)

    async def end_input(self) -> None:
        """On a terminal that is a character of its own."""
        if self._terminal is not None:
            await self._input.write(b"\x04")
        else:
            self._input.close()

    def resize(self, size: Size) -> None:
        if self._terminal is not None and self._process.returncode is None:
            set_size(self._terminal, size)
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGWINCH)

    def send_signal(self, number: int) -> None:
        pid = read_number(self._folder / PID)
        if pid is not None:
            processes.send(pid, number, lambda: cgroups.holds(pid, self._launch.container_id))

    async def wait(self) -> int:
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        """The OCI runtime goes first: with it a terminal hangs up, which a shell passes on to its jobs."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self.send_signal(signal.SIGHUP)
            self.send_signal(signal.SIGKILL)
            await self._process.wait()
        await self._output.close()
        self._input.close()
        if self._terminal is not None:
            os.close(self._terminal)
        self._launch.folder.cleanup()


async def _appears(path: Path) -> None:
    """Return when there is such a file, complete."""
    descriptor = syscalls.inotify(path.parent, syscalls.IN_CLOSE_WRITE | syscalls.IN_MOVED_TO)
    try:
        while read_number(path) is None:
            await _ready(descriptor, asyncio.get_running_loop().add_reader, _remove_reader)
            os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def set_size(descriptor: int, size: Size) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


@dataclass(frozen=True, slots=True)
class Launch:
    """How the OCI runtime is called, in a folder of its own that is there for as long as the command."""

    folder: tempfile.TemporaryDirectory[str]
    words: tuple[str, ...]
    container_id: str
    tty: bool
    stdin: bool
    size: Size | None = None


async def talk(launch: Launch) -> Talk:
    """Start the command. Raises RuntimeFaultError when it cannot be."""
    try:
        begun = await (_on_terminal(launch) if launch.tty else _on_pipes(launch))
    except BaseException as error:
        launch.folder.cleanup()
        if isinstance(error, OSError):
            raise RuntimeFaultError(f"cannot run {launch.words[0]}: {error.strerror}") from error
        raise
    try:
        await begun.started()
    except BaseException:
        await begun.close()
        raise
    return begun


async def _on_pipes(launch: Launch) -> Talk:
    (out, out_end), (err, err_end) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    in_end, into = os.pipe2(os.O_CLOEXEC)
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.words, stdin=in_end, stdout=out_end, stderr=err_end, start_new_session=True
        )
    except BaseException:
        for descriptor in (out, err, into):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (out_end, err_end, in_end):
            os.close(descriptor)
    writer = Writer(into)
    if not launch.stdin:
        writer.close()
    return Talk(process, launch, Merged({"stdout": Reader(out), "stderr": Reader(err)}), writer)


async def _on_terminal(launch: Launch) -> Talk:
    master, slave = os.openpty()
    try:
        tty.setraw(slave)  # before the OCI runtime does: what is typed meanwhile must not be echoed
        if launch.size is not None:
            set_size(master, launch.size)
        process = await asyncio.create_subprocess_exec(
            *launch.words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return Talk(process, launch, Merged({"stdout": Reader(os.dup(master))}), Writer(os.dup(master)), master)
