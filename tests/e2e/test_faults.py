"""Hosts and links that fail under a running cluster; `docs/reliability.md` has the table of all faults.

The heartbeat is 1 s, so that a silent node is DOWN after three seconds instead of six.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually

NODES = ("core-01", "core-02", "core-03")

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def site(cluster: Cluster, archives: dict[str, Path]) -> Cluster:
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))
    manager = cluster.lab["core-01"].address
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", manager, "--dispatcher-heartbeat", "1s")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, f"{manager}:2377")
    return cluster


@pytest.fixture
def on_core_03(site: Cluster) -> Iterator[Cluster]:
    """Two services whose tasks run on core-03: `loyal` runs on without a manager, `obedient` for a second."""
    for name, policy in (("loyal", "keep"), ("obedient", "stop=1s")):
        options = ("--constraint", "node.hostname==core-03", "--on-disconnect", policy)
        site.ctl("core-01", "service", "create", "-q", "--name", name, *options, "whoami:1")
    yield site
    for name in ("loyal", "obedient"):
        site.ctl("core-01", "service", "rm", name)


def _containers(cluster: Cluster, name: str) -> set[str]:
    """The pids of the containers' programs on a host."""
    return set(cluster.lab[name].run(["pidof", "httpd"], check=False).stdout.split())


def _ready(cluster: Cluster) -> bool:
    nodes = cluster.ctl("core-01", "node", "ls", check=False)
    return nodes.returncode == 0 and nodes.stdout.count("Ready") == len(NODES)


def _running(cluster: Cluster, service: str) -> bool:
    listed = cluster.ctl("core-01", "service", "ls", "--format", "{{.Name}} {{.Replicas}}").stdout
    return f"{service} 1/1" in listed.splitlines()


def test_a_node_without_a_manager_stops_what_should_not_run_there_alone(on_core_03: Cluster) -> None:
    cluster = on_core_03
    eventually(lambda: _running(cluster, "loyal") and _running(cluster, "obedient"), "both run")
    before = _containers(cluster, "core-03")
    assert len(before) == 2
    cut = cluster.lab["core-03"]
    cut.link(up=False)
    eventually(lambda: len(_containers(cluster, "core-03")) == 1, "one of them is stopped", timeout=60)
    assert _containers(cluster, "core-03") < before
    eventually(lambda: not _ready(cluster), "the node is down")
    cut.link(up=True)
    eventually(lambda: _ready(cluster), "the node is back", timeout=60)
    eventually(lambda: _running(cluster, "loyal") and _running(cluster, "obedient"), "both run", timeout=60)
    eventually(lambda: len(_containers(cluster, "core-03")) == 2, "no surplus is left")


def test_workers_find_the_manager_again_when_its_host_returns(site: Cluster) -> None:
    """Without a word from the host: they learn of its end from the answers that do not come."""
    host = site.lab["core-01"]
    log = host.directory / "data" / "log" / "mini-manager.log"

    def sessions() -> int:
        return log.read_text().count("Session opened.")

    def given_up(name: str) -> bool:
        return "Session with a manager ended." in site.lab[name].log("mini-worker.log")

    host.power_off()
    eventually(lambda: given_up("core-02"), "core-02 knows that it has no manager", timeout=60)
    before = sessions()
    host.power_on()
    site.start("core-01")
    eventually(lambda: sessions() >= before + len(NODES), "all nodes hold sessions again", timeout=60)
    eventually(lambda: _ready(site), "all nodes are ready", timeout=60)
    site.ctl("core-01", "service", "create", "-q", "--name", "after", "--mode", "global", "whoami:1")
