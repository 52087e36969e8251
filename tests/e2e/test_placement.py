"""Where tasks go on three real nodes: a label that was missing, a rule that changes, a node that is emptied."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually, http_get

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

WORKERS = ("core-02", "core-03")


def _where(cluster: Cluster, service: str) -> Counter[str]:
    """How many tasks of the service run on each node."""
    out = cluster.ctl(
        *("core-01", "service", "ps", service, "--filter", "desired-state=running"),
        *("--format", "{{.Node}} {{.CurrentState}}"),
    ).stdout
    return Counter(line.split()[0] for line in out.splitlines() if " Running " in f"{line} ")


def _settled(cluster: Cluster, service: str, wanted: dict[str, int]) -> None:
    eventually(lambda: _where(cluster, service) == wanted, f"{service} runs as {wanted}")


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in WORKERS:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in ("core-01", *WORKERS):
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))


def test_a_task_that_no_node_may_have_says_why_and_what_helps(cluster: Cluster) -> None:
    create = ("service", "create", "-d", "--name", "web", "-p", "4567:4567", "--replicas", "2")
    cluster.ctl("core-01", *create, "--constraint", "node.labels.disk==ssd", "whoami:1")

    def told() -> str:
        out = cluster.ctl("core-01", "task", "why", "web.1").stdout
        return out if "pending" in out else ""

    text = eventually(told, "the reason is known")
    assert text.startswith(
        "web.1 is pending: no suitable node (scheduling constraints not satisfied on 3 nodes)\n"
    )
    assert "core-02   constraint   constraint node.labels.disk==ssd: it has none\n" in text
    assert text.endswith("What would help: minictl node update --label-add 'disk=ssd' core-01\n")


def test_the_help_helps(cluster: Cluster) -> None:
    cluster.ctl("core-01", "node", "update", "--label-add", "disk=ssd", "core-02")
    _settled(cluster, "web", {"core-02": 2})
    assert http_get(cluster.lab.client, "http://core-01:4567/peer").strip() == "10.77.0.99"


def test_tasks_follow_the_label(cluster: Cluster) -> None:
    cluster.ctl("core-01", "node", "update", "--label-add", "disk=ssd", "core-03")
    cluster.ctl("core-01", "node", "update", "--label-rm", "disk", "core-02")
    _settled(cluster, "web", {"core-03": 2})
    history = cluster.ctl("core-01", "service", "ps", "--no-trunc", "web").stdout
    assert '"assigned node no longer meets constraints"' in history


def test_a_drained_node_is_emptied(cluster: Cluster) -> None:
    remove = ("--constraint-rm", "node.labels.disk==ssd", "--constraint-add", "node.role==worker")
    cluster.ctl("core-01", "service", "update", "-d", *remove, "--replicas-max-per-node", "2", "web")
    assert _where(cluster, "web") == {"core-03": 2}  # they still fit: nothing moves
    cluster.ctl("core-01", "node", "update", "--availability", "drain", "core-03")
    _settled(cluster, "web", {"core-02": 2})
    http_get(cluster.lab.client, "http://core-03:4567/")
    eventually(
        lambda: not cluster.lab["core-03"].run(["pidof", "httpd"], check=False).stdout,
        "no container is left on core-03",
    )
    (line,) = cluster.ctl("core-01", "service", "ls", "--format", "{{.Replicas}}").stdout.splitlines()
    assert line == "2/2 (max 2 per node)"
