"""A real cluster on the hosts of a `Lab`: daemons, `minictl` on a host, and waiting for what should come.

Standard library only, so that the demo can use it. Needs root.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from support.hosts import Host, Lab

T = TypeVar("T")

BIN = Path(sys.executable).parent
"""Where this environment's console scripts are."""

RUN_DIR = Path("/run/mini")
"""Each host has a /run of its own, so the default serves all."""


class TookTooLongError(AssertionError):
    """A condition did not come true in time."""


def eventually(condition: Callable[[], T], what: str, *, timeout: float = 30, interval: float = 0.05) -> T:
    """The first true value of `condition`, asked again every `interval` seconds for `timeout` seconds.

    An AssertionError inside counts as "not yet". Raises TookTooLongError, with the last one, in the end.
    """
    deadline = time.monotonic() + timeout
    last: AssertionError | None = None
    while True:
        try:
            if value := condition():
                return value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise TookTooLongError(f"not within {timeout} s: {what}") from last
        time.sleep(interval)


class Cluster:
    """The daemons of a lab's hosts."""

    def __init__(self, lab: Lab, *, worker_options: Sequence[str] = (), patient: bool = False) -> None:
        """`patient`: a node whose daemon was killed has half a minute to be back, for tests of what it then finds.

        Else it has 2.5 s, which a busy machine may need for the start of Python alone.
        """
        self.lab = lab
        self._env = {"MINI_TEST_RECONNECT_SECONDS": "30"} if patient else {}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._worker_options = tuple(worker_options)

    def start(self, *names: str) -> None:
        """Start `mini-worker` on these hosts and wait until each answers on its socket."""
        for name in names:
            host = self.lab[name]
            command = [
                str(BIN / "mini-worker"),
                "--data-dir",
                str(host.directory / "data"),
                *self._worker_options,
            ]
            self.daemons[name] = host.start(command, log="mini-worker.log", env=self._env)
        for name in names:
            eventually(lambda name=name: self._answers(name), f"mini-worker answers on {name}")  # type: ignore[misc]

    def _answers(self, name: str) -> bool:
        if (code := self.daemons[name].poll()) is not None:
            raise RuntimeError(
                f"mini-worker ended with {code} on {name}:\n{self.lab[name].log('mini-worker.log')}"
            )
        # Its socket alone says nothing: a daemon that was killed leaves one.
        return self.ctl(name, "info", check=False).returncode == 0

    def kill(self, name: str, signal: str = "KILL") -> None:
        """Send the host's daemon a signal, and wait until it has ended.

        Not through `daemons`: what that names is `nsenter`, which ends alone and leaves the daemon running.
        """
        holder = (self.lab[name].directory / "data" / "mini-worker.lock").read_text().strip()
        self.lab[name].run(["kill", f"-{signal}", holder])
        self.daemons[name].wait(timeout=60)

    def ctl(
        self, name: str, *arguments: str, check: bool = True, timeout: float = 120, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `minictl` on a host."""
        return self.lab[name].run(
            [str(BIN / "minictl"), *arguments], check=check, timeout=timeout, input=input
        )

    def logs(self) -> str:
        """The last lines of what every daemon and its children have written, for a failing test's report."""
        parts: list[str] = []
        for name in self.daemons:
            directory = self.lab[name].directory
            for path in [directory / "mini-worker.log", *sorted((directory / "data" / "log").glob("*"))]:
                if path.is_file():
                    lines = path.read_text(errors="replace").splitlines()[-40:]
                    parts.append(f"--- {name}: {path.name}\n" + "\n".join(lines))
        return "\n".join(parts)


def http_get(host: Host, url: str, *, timeout: float = 3) -> str:
    """What `curl` on `host` gets from `url`. Raises AssertionError when it gets nothing."""
    done = host.run(
        ["curl", "-sS", "--fail", "--max-time", str(timeout), url], check=False, timeout=timeout + 5
    )
    assert done.returncode == 0, f"curl {url} on {host.name}: {done.stderr.strip()}"
    return done.stdout
