"""A world of canned objects, a server that shows it, and `minictl` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from miniproto.v1 import node_pb2
from support import canned
from support.control_server import ControlServer, World, unix_server

MINICTL = Path(sys.executable).with_name("minictl")


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def world() -> World:
    return World(
        services={"web": canned.service(), "api": canned.service("api", running=0)},
        tasks=[
            canned.task(1),
            canned.task(1, identity="t0", state=704, desired=640, age=400, error="task: non-zero exit (137)"),
            canned.task(2, identity="t2", hostname="core-02", age=30),
        ],
        nodes=[
            canned.node(),
            canned.node("core-02", manager=False, identity=canned.OTHER_NODE_ID),
        ],
        networks=[canned.network(), canned.backend()],
        images=[canned.image()],
        resolved={"whoami:1": node_pb2.ResolveImageResponse(digest="sha256:" + "d" * 64)},
    )


@pytest.fixture
def server(tmp_path: Path, world: World) -> Iterator[ControlServer]:
    with unix_server(tmp_path, world) as running:
        yield running


@pytest.fixture
def minictl(server: ControlServer, tmp_path: Path) -> Run:
    """Runs minictl against the server."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        command = [str(MINICTL), "-H", f"unix://{tmp_path}/mini.sock", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run
