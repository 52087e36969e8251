"""Updates as a user sees them, on a real node: replaced one by one, rolled back, paused, and told by the exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.hosts import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODE = "box-01"
FAST = ("--update-monitor", "500ms", "--rollback-monitor", "500ms", "--stop-grace-period", "1s")

BAD = ("--args", "sh -c 'exit 3'", "--update-delay", "1s")
"""The delay keeps the next place from its turn while the task that ends at once still counts as running."""


@pytest.fixture(scope="module")
def cluster(archives: dict[str, Path]) -> Iterator[Cluster]:
    """A cluster of one."""
    with Lab(f"u{os.getpid() % 10000}", (NODE,)) as lab:
        cluster = Cluster(lab)
        cluster.start(NODE)
        cluster.ctl(NODE, "swarm", "init", "--advertise-addr", lab[NODE].address)
        for path in archives.values():
            cluster.ctl(NODE, "image", "load", "-i", str(path))
        yield cluster
        cluster.ctl(NODE, "swarm", "leave", "--force")


@pytest.fixture
def service(cluster: Cluster) -> Iterator[str]:
    words = ("sh", "-c", "trap exit TERM; while true; do sleep 0.1; done")
    cluster.ctl(
        NODE, "service", "create", "-q", "--name", "web", "--replicas", "3", *FAST, "busybox:latest", *words
    )
    yield "web"
    cluster.ctl(NODE, "service", "rm", "web")


def _inspect(cluster: Cluster) -> dict[str, object]:
    (found,) = json.loads(cluster.ctl(NODE, "service", "inspect", "web").stdout)
    assert isinstance(found, dict)
    return found


def _running(cluster: Cluster) -> set[str]:
    shown = cluster.ctl(NODE, "service", "ps", "-q", "--filter", "desired-state=running", "web").stdout
    return set(shown.split())


def _update(cluster: Cluster, *flags: str) -> int:
    return cluster.ctl(NODE, "service", "update", "-q", *flags, "web", check=False).returncode


def test_an_update_replaces_all_and_a_rollback_brings_back(cluster: Cluster, service: str) -> None:
    before = _running(cluster)
    assert _update(cluster, "--env-add", "COLOR=red", "--update-order", "start-first") == 0
    assert not before & _running(cluster)
    assert _inspect(cluster)["UpdateStatus"]["State"] == "completed"  # type: ignore[index]

    assert "COLOR=red" in cluster.ctl(NODE, "service", "diff", service).stdout
    assert cluster.ctl(NODE, "service", "rollback", "-q", service).returncode == 0
    assert _inspect(cluster)["UpdateStatus"]["State"] == "rollback_completed"  # type: ignore[index]
    history = cluster.ctl(NODE, "service", "history", service).stdout
    assert [line.split()[0] for line in history.splitlines()] == ["REVISION", "3", "2", "1"]


def test_a_bad_update_pauses_and_says_so(cluster: Cluster, service: str) -> None:
    before = _running(cluster)
    assert _update(cluster, *BAD, "--restart-delay", "1h") == 3
    assert len(before & _running(cluster)) == 2
    status = _inspect(cluster)["UpdateStatus"]
    assert status["State"] == "paused"  # type: ignore[index]
    assert "due to failure or early termination" in status["Message"]  # type: ignore[index]


def test_a_bad_update_rolls_back_and_says_so(cluster: Cluster, service: str) -> None:
    before = _running(cluster)
    assert _update(cluster, *BAD, "--update-failure-action", "rollback") == 2
    assert len(before & _running(cluster)) == 2
    assert _inspect(cluster)["UpdateStatus"]["State"] == "rollback_completed"  # type: ignore[index]


def test_an_update_that_finds_no_node_ends_at_its_deadline(cluster: Cluster, service: str) -> None:
    assert _update(cluster, "--reserve-cpu", "1000", "--update-deadline", "1s") == 4
    assert len(_running(cluster)) == 3
