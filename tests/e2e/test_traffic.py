"""Nothing is lost: load on a service on three real nodes while everything about it and below it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.images import whoami, write_docker_archive
from support.load import Load

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

PATIENT = True
"""Daemons are killed and must find what they left, however long their start takes here."""

NODES = ("core-01", "core-02", "core-03")
PORT = 4567
CHECKS = (
    "--health-tcp",
    str(PORT),
    "--health-interval",
    "1s",
    "--ready-http",
    f"{PORT}/",
    "--ready-interval",
    "1s",
)


def _lines(cluster: Cluster, *arguments: str) -> list[str]:
    return cluster.ctl("core-01", *arguments).stdout.splitlines()


def _running(cluster: Cluster) -> list[str]:
    """The nodes of the tasks that run."""
    form = "{{.Node}} {{.CurrentState}}"
    told = _lines(cluster, "service", "ps", "web", "--filter", "desired-state=running", "--format", form)
    return sorted(line.split()[0] for line in told if line.split()[1] == "Running")


def _settled(cluster: Cluster, count: int) -> None:
    """So many tasks run, and none is being stopped."""

    def settled() -> bool:
        stopped = ("service", "ps", "web", "--filter", "desired-state=shutdown")
        states = _lines(cluster, *stopped, "--format", "{{.CurrentState}}")
        going = [state for state in states if state.split()[0] == "Running"]
        return len(_running(cluster)) == count and not going

    eventually(settled, f"{count} tasks run")


@contextmanager
def _load(cluster: Cluster) -> Iterator[None]:
    """Through a node that stays as it is, and anew through all."""
    steady = cluster.lab["core-01"].address
    with Load(
        cluster.lab.client, steady=steady, nodes=[cluster.lab[name].address for name in NODES], port=PORT
    ):
        yield


@pytest.fixture(scope="module")
def web(cluster: Cluster, archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster with a service of three tasks that have both kinds of checks."""
    second = write_docker_archive(tmp_path_factory.mktemp("images") / "whoami-2.tar", whoami("whoami:2"))
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in NODES:
        for path in (archives["whoami:1"], second):
            cluster.ctl(name, "image", "load", "-i", str(path))
    create = ("service", "create", "--name", "web", "--replicas", "3", "-p", f"{PORT}:{PORT}")
    cluster.ctl("core-01", *create, "--update-monitor", "500ms", *CHECKS, "whoami:1")
    return cluster


def test_a_rolling_update_loses_nothing_and_tells_how_long_each_step_took(web: Cluster) -> None:
    """Row 8 of the tutorial."""
    with _load(web):
        update = ("service", "update", "--progress=plain", "--image", "whoami:2", "web")
        out = web.ctl("core-01", *update).stdout
        _settled(web, 3)
    history = _lines(web, "service", "ps", "web")
    assert sum("whoami:1" in line and r" \_ web." in line and "Shutdown" in line for line in history) == 3
    duration = r"[0-9.]+m?s"
    steps = re.findall(
        rf"^web\.[123] stopped: removed from tables at revision \d+, acknowledged after ({duration}), "
        rf"drained after {duration}(?:, \d+ connections? left)?, stopped after {duration}$",
        out,
        re.MULTILINE,
    )
    assert len(steps) == 3, out


def test_only_a_connection_that_stays_open_is_waited_for_and_not_for_ever(web: Cluster) -> None:
    client = web.lab.client
    hold = f"exec 3<>/dev/tcp/{web.lab['core-01'].address}/{PORT} && echo connected && exec sleep 600"
    holder = client.start(["bash", "-c", hold], log="holder.log")
    eventually(lambda: "connected" in client.log("holder.log"), "a connection is open")
    update = ("service", "update", "--progress=plain", "--drain-timeout", "1s", "web")
    first = web.ctl("core-01", *update).stdout  # its old tasks still have the default
    second = web.ctl("core-01", "service", "update", "--progress=plain", "--force", "web").stdout
    holder.terminate()
    (drained,) = re.findall(r"drained after ([0-9.]+)s, 1 connection left", first)
    assert 2 <= float(drained) < 3, first
    assert "left" not in second, second
    waits = [float(each) for each in re.findall(r"drained after (\d+)ms", second)]
    assert all(each < 500 for each in waits), second


def test_an_update_that_starts_first_loses_nothing(web: Cluster) -> None:
    with _load(web):
        web.ctl("core-01", "service", "update", "--update-order", "start-first", "--env-add", "V=3", "web")
        _settled(web, 3)


def test_scaling_up_and_down_loses_nothing(web: Cluster) -> None:
    with _load(web):
        for count in (6, 2, 3):
            web.ctl("core-01", "service", "scale", f"web={count}")
            _settled(web, count)


def test_draining_a_node_loses_nothing(web: Cluster) -> None:
    """Row 19 of the tutorial."""
    with _load(web):
        web.ctl("core-01", "node", "update", "--availability", "drain", "core-02")
        eventually(lambda: len(_running(web)) == 3 and "core-02" not in _running(web), "core-02 is empty")
        web.ctl("core-01", "node", "update", "--availability", "active", "core-02")
        web.ctl("core-01", "service", "update", "--force", "web")
        _settled(web, 3)
    assert "core-02" in _running(web)


def _process(cluster: Cluster, name: str, program: str) -> str:
    """The pid of a program on a host; empty: it does not run."""
    return cluster.lab[name].run(["pidof", "-x", program], check=False).stdout.strip()


def _replace_child(cluster: Cluster, name: str, program: str, signal: str) -> None:
    pid = _process(cluster, name, program)
    cluster.lab[name].run(["kill", f"-{signal}", pid])
    eventually(lambda: _process(cluster, name, program) not in ("", pid), f"{program} is back")


def _restart_worker(cluster: Cluster, name: str, signal: str) -> None:
    cluster.kill(name, signal)
    cluster.start(name)


def _ready(cluster: Cluster) -> bool:
    nodes = cluster.ctl("core-01", "node", "ls", check=False)
    return nodes.returncode == 0 and nodes.stdout.count("Ready") == 3


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
@pytest.mark.parametrize("program", ["mini-manager", "mini-ingress", "mini-worker"])
def test_our_own_processes_may_be_killed_and_restarted(web: Cluster, program: str, signal: str) -> None:
    running = ("service", "ps", "web", "--filter", "desired-state=running", "-q")
    before = set(_lines(web, *running))
    with _load(web):
        if program == "mini-worker":
            _restart_worker(web, "core-02", signal)
        else:
            _replace_child(web, "core-01", program, signal)
        eventually(lambda: _ready(web) and len(_running(web)) == 3, "all is as it was")
    assert set(_lines(web, *running)) == before
