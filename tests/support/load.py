"""Clients that send requests all the while, and count what failed. Standard library only; `wrk` for the load."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support.cluster import eventually
from support.hosts import Host

_RECONNECTING = Path(__file__).with_name("reconnecting.py")

_number = itertools.count()


class Background:
    """A program on a host that tells at its end, upon SIGINT, what it has seen."""

    def __init__(self, host: Host, command: Sequence[str]) -> None:
        self._host = host
        self.name = f"load-{next(_number)}"
        self._pid_file = host.directory / f"{self.name}.pid"
        script = 'echo $$ > "$0"; exec nice -n 5 "$@"'
        self._process = host.start(
            ["sh", "-c", script, str(self._pid_file), *command], log=f"{self.name}.log"
        )
        eventually(lambda: self._pid_file.exists() and self._pid_file.read_text(), f"{command[0]} runs")

    def finish(self) -> str:
        """End it, and what it has printed."""
        assert self._process.poll() is None, self._host.log(f"{self.name}.log")
        self._host.run(["kill", "-INT", self._pid_file.read_text().strip()])
        self._process.wait(timeout=30)
        return self._host.log(f"{self.name}.log")


class Load:
    """Load on a service while the block runs; afterwards no request may have failed.

    `wrk`, with connections that are kept and with one for each request, through the node `steady`; and clients that
    connect anew, through each of `nodes`.
    """

    def __init__(self, client: Host, *, steady: str, nodes: Sequence[str], port: int) -> None:
        self._client = client
        self._url = f"http://{steady}:{port}/"
        self._nodes = tuple(nodes)
        self._port = port
        self._running: list[Background] = []
        self.requests = 0

    def __enter__(self) -> Load:
        # Addresses, not names: wrk asks the resolver once more for each connection that it opens.
        wrk = ["wrk", "-t1", "-c3", "-d600s", "--timeout", "5s"]
        self._running = [
            Background(self._client, [*wrk, self._url]),
            Background(self._client, [*wrk, "-H", "Connection: close", self._url]),
            *(
                Background(self._client, [sys.executable, str(_RECONNECTING), node, str(self._port)])
                for node in self._nodes
            ),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        texts = [each.finish() for each in self._running]
        if error is not None:
            return
        problems = []
        for text in texts:
            count, failures = read_result(text)
            self.requests += count
            assert count, f"no request went through: {text}"
            problems += failures
        assert not problems, problems


def read_result(text: str) -> tuple[int, list[str]]:
    """How many requests there were, and what went wrong, of what wrk or `reconnecting` has printed."""
    if text.startswith("{"):
        told = json.loads(text)
        return told["requests"], told["failures"]
    found = re.search(r"(\d+) requests in", text)
    failures = re.findall(r"Socket errors: .*|Non-2xx.*", text)
    return int(found[1]) if found else 0, [line for line in failures if re.search(r"[1-9]", line)]
