"""Starting a container under conmon, which holds its output and exit code while the agent comes and goes.

conmon forks itself away into a session of its own, calls `runc create`, and reports on a pipe; `runc start` then lets
the container's first process run. When this ends, conmon writes its exit code into a file and ends, too: who waits for
conmon, waits for the container, and finds the code in the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miniworker.runtime.api import KEEP_ALL, Execution, LogLimits, RuntimeFaultError
from miniworker.runtime.interactive import Command
from miniworker.runtime.oci.execute import execute
from miniworker.runtime.oci.explain import explain, has_complaint
from miniworker.runtime.oci.records import ContainerFiles, ensure_directory
from miniworker.runtime.oci.rotation import conmon_limit
from miniworker.runtime.oci.talk import LOG, PID, Launch, Talk, talk


@dataclass(frozen=True, slots=True)
class Programs:
    """Absolute paths."""

    conmon: str
    runtime: str
    """runc or crun."""
    init: str = ""
    """For containers that ask for one; empty: this node has none."""


class Supervisor:
    """Calls conmon and the OCI runtime. Raises RuntimeFaultError with what they said."""

    def __init__(self, programs: Programs, run_dir: Path) -> None:
        self._programs = programs
        self._root = run_dir / "runtime"
        ensure_directory(self._root)

    async def version(self) -> str:
        """ "runc 1.1.5"."""
        _, output = await self._run("--version")
        name, _, rest = output.partition("\n")[0].partition(" version ")
        return f"{name} {rest}".strip()

    def is_known(self, container_id: str) -> bool:
        """Whether the runtime has state of it, to be deleted once."""
        return (self._root / container_id).exists()

    def is_waiting(self, container_id: str) -> bool:
        """Whether it was created and not yet let run (runc and crun: the FIFO its first process waits at)."""
        return (self._root / container_id / "exec.fifo").exists()

    async def create(
        self,
        container_id: str,
        name: str,
        files: ContainerFiles,
        *,
        tty: bool = False,
        stdin: bool = False,
        limits: LogLimits = KEEP_ALL,
    ) -> None:
        """Start conmon and through it the container, up to the point before its first program."""
        for directory in (files.exits, files.state):
            ensure_directory(directory)
        for path in (files.exits / container_id, files.pid, files.conmon_pid, files.state / "oom"):
            path.unlink(missing_ok=True)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._conmon(container_id, name, files, tty=tty, stdin=stdin, limits=limits),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "_OCI_SYNCPIPE": str(writer)},
                cwd=files.state,
                pass_fds=(writer,),
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        answer = await _read_all(reader)
        _, errors = await process.communicate()
        _check_answer(answer, errors.decode(errors="replace"))

    async def start(self, container_id: str) -> None:
        """Let the created container run."""
        await self._tell("start", container_id)

    async def exec(
        self, container_id: str, command: tuple[str, ...], files: ContainerFiles, *, timeout_ns: int
    ) -> Execution:
        """Run `command` inside the running container."""
        with tempfile.TemporaryDirectory(prefix="exec-", dir=files.root) as folder:
            pid_file = Path(folder) / "pid"
            arguments = ("--root", str(self._root), "exec", "--pid-file", str(pid_file), container_id)
            done = await execute(
                (self._programs.runtime, *arguments, *command),
                container_id=container_id,
                pid_file=pid_file,
                timeout_ns=timeout_ns,
            )
        text = done.output.decode(errors="replace")
        not_begun = done.code != 0 and has_complaint(text)
        return replace(done, output=explain(text).encode()) if not_begun else done

    async def talk(
        self, container_id: str, process: Mapping[str, Any], files: ContainerFiles, command: Command
    ) -> Talk:
        """Start `process` inside the running container, for somebody to talk to."""
        folder = tempfile.TemporaryDirectory(prefix="exec-", dir=files.root)
        root = Path(folder.name)
        document = root / "process.json"
        document.write_text(json.dumps(process))
        words = (
            self._programs.runtime,
            *("--root", str(self._root), "--log", str(root / LOG), "exec"),
            *("--process", str(document), "--pid-file", str(root / PID), container_id),
        )
        return await talk(Launch(folder, words, container_id, command.tty, command.stdin, command.size))

    async def pause(self, container_id: str) -> None:
        """All its processes stand still, until `resume`."""
        await self._tell("pause", container_id)

    async def resume(self, container_id: str) -> None:
        await self._tell("resume", container_id)

    async def _tell(self, word: str, container_id: str) -> None:
        code, output = await self._run("--root", str(self._root), word, container_id)
        if code != 0:
            raise RuntimeFaultError(explain(output))

    async def delete(self, container_id: str) -> None:
        """Remove what the runtime keeps of it, killing what is left."""
        code, output = await self._run("--root", str(self._root), "delete", "--force", container_id)
        if code != 0:
            raise RuntimeFaultError(explain(output))

    def _conmon(
        self,
        container_id: str,
        name: str,
        files: ContainerFiles,
        *,
        tty: bool,
        stdin: bool,
        limits: LogLimits,
    ) -> tuple[str, ...]:
        return (
            self._programs.conmon,
            "--api-version=1",
            *("--cid", container_id),
            *("--cuuid", container_id),
            *("--name", name),
            *("--runtime", self._programs.runtime),
            *("--runtime-arg", f"--root={self._root}"),
            *("--bundle", str(files.root)),
            *("--container-pidfile", str(files.pid)),
            *("--conmon-pidfile", str(files.conmon_pid)),
            *("--exit-dir", str(files.exits)),
            *("--persist-dir", str(files.state)),
            *("--log-path", f"k8s-file:{files.log}" if limits.keep else "none"),
            *(["--log-size-max", str(size)] if (size := conmon_limit(limits)) else []),
            "--log-level=error",
            "--no-sync-log",
            "--full-attach",
            *(["--terminal"] if tty else []),
            *(["--stdin"] if stdin else []),
            # A terminal is detached from and attached to again; its end of input is a character that is typed.
            *(["--leave-stdin-open"] if stdin and tty else []),
        )

    async def _run(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            self._programs.runtime,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode(errors="replace")


async def _read_all(descriptor: int) -> bytes:
    """What conmon reports: one line of JSON. It keeps the pipe open while the container lives."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    file = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
    try:
        return await stream.readline()
    finally:
        transport.close()


def _check_answer(answer: bytes, errors: str) -> None:
    """`{"data": pid}`, or `{"data": -1, "message": ...}`; nothing when conmon itself could not go on."""
    if not answer:
        raise RuntimeFaultError(f"conmon ended without a word: {errors.strip() or 'no output'}")
    report = json.loads(answer)
    if int(report.get("data", -1)) <= 0:
        raise RuntimeFaultError(explain(str(report.get("message", "")) or errors))
