"""A Docker Engine of our own for tests: its own data, socket, containerd and mounts; nothing of it is left in the end.

Without bridge and packet filter rules, so that it changes nothing of the host's network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "/usr/sbin/dockerd"

_START_S = 30.0
_END_S = 30.0


def command(folder: Path, *options: str) -> list[str]:
    """`dockerd` with everything below `folder`. Its mounts are its own."""
    return [
        *("unshare", "--mount", PROGRAM),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
        *("--host", f"unix://{folder / 'docker.sock'}", "--pidfile", str(folder / "dockerd.pid")),
        *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
        *("--shutdown-timeout", "5", "--cgroup-parent", f"/{folder.name}"),
        *options,
    ]


class Dockerd:
    """Use it as a context; `stop` and `start` in between are what its restart is."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        # Paths of sockets are short, pytest's folders are not.
        self.folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
        self.socket = self.folder / "docker.sock"
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Dockerd:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        deadline = time.monotonic() + _END_S
        while (left := self.left()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._remove_cgroups()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_cgroups(self) -> None:
        for pattern in (self.folder.name, f"*/{self.folder.name}"):
            for group in Path("/sys/fs/cgroup").glob(pattern):
                for folder, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):  # a process of it is just ending
                        Path(folder).rmdir()

    def start(self) -> None:
        """Return when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command(self.folder, *self._options), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """As an administrator does it: what runs is stopped, unless containers live on without it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """As a fault does it: its containerd goes with it, what runs in containers stays.

        Where the machine's first process reaps nobody, the next one would take containerd's remains for alive.
        """
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        file = self.folder / "exec/containerd/containerd.pid"
        deadline = time.monotonic() + _END_S
        while _read(int(file.read_text()), "cmdline") and time.monotonic() < deadline:
            time.sleep(0.02)
        file.unlink()

    def left(self) -> list[int]:
        """Processes of it, of its containerd, of their shims and in its containers."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_of(pid)]

    def _is_of(self, pid: int) -> bool:
        name = os.fsencode(self.folder.name)
        return pid != os.getpid() and (name in _read(pid, "cmdline") or name in _read(pid, "cgroup"))

    def _answers(self) -> bool:
        done = subprocess.run(
            ["curl", "-s", "--unix-socket", str(self.socket), "http://docker/_ping"], capture_output=True
        )
        return done.stdout == b"OK"


def _read(pid: int, name: str) -> bytes:
    """A file of the process in /proc; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
