"""One service over a node with the Docker Engine and a node with the `oci` runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.canary import Canary
from support.cluster import Cluster, eventually, http_get
from support.dockerd import PROGRAM
from support.hosts import Lab

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.timeout(180)]

DOCKER, OCI = "core-01", "core-02"
CLIENT = "10.77.0.99"
"""The client's address, which containers are to see."""

ENGINE = (
    *("--host", "unix:///run/docker.sock", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"),
    *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
)


@pytest.fixture(scope="module")
def cluster(archives: dict[str, Path]) -> Iterator[Cluster]:
    """The first node has an Engine, which its daemon finds by itself; the second has none."""
    with Lab(f"d{os.getpid() % 10000}", (DOCKER, OCI)) as lab:
        host = lab[DOCKER]
        host.start([PROGRAM, "--data-root", str(host.directory / "engine"), *ENGINE], log="dockerd.log")
        eventually(lambda: _engine_answers(lab), "dockerd answers")
        cluster = Cluster(lab)
        cluster.start(DOCKER, OCI)
        cluster.ctl(DOCKER, "swarm", "init", "--advertise-addr", "10.77.0.11")
        token = cluster.ctl(DOCKER, "swarm", "join-token", "-q", "worker").stdout.strip()
        cluster.ctl(OCI, "swarm", "join", "--token", token, "10.77.0.11:2377")
        for name in (DOCKER, OCI):
            for path in archives.values():
                cluster.ctl(name, "image", "load", "-i", str(path))
        yield cluster


def _engine_answers(lab: Lab) -> bool:
    ask = ["curl", "-sf", "--unix-socket", "/run/docker.sock", "http://docker/_ping"]
    return lab[DOCKER].run(ask, check=False).stdout == "OK"


def _nodes_of(cluster: Cluster, service: str) -> list[str]:
    form = "{{.Node}} {{.CurrentState}}"
    arguments = ("service", "ps", service, "--filter", "desired-state=running", "--format", form)
    lines = cluster.ctl(DOCKER, *arguments).stdout.splitlines()
    return sorted(line.split()[0] for line in lines if line.split()[1] == "Running")


def _answering(cluster: Cluster, url: str) -> set[str]:
    return {http_get(cluster.lab.client, f"{url}/") for _ in range(16)}


def test_each_node_says_what_runs_its_containers(cluster: Cluster) -> None:
    form = "{{.Description.Engine.Runtime}} {{.Description.Engine.RuntimeVersion}}"
    inspect = ("node", "inspect", DOCKER, OCI, "--format", form)
    first, second = cluster.ctl(DOCKER, *inspect).stdout.splitlines()
    assert re.fullmatch(r"docker Docker Engine \d+\.\d+\..*", first)
    assert re.fullmatch(r"oci c?runc? .*", second)


def test_a_published_port_reaches_both_and_each_sees_the_clients_address(cluster: Cluster) -> None:
    create = ("service", "create", "--name", "web", "--replicas", "4", "-p", "4567:4567", "whoami:1")
    cluster.ctl(DOCKER, *create)
    eventually(lambda: _nodes_of(cluster, "web") == [DOCKER, DOCKER, OCI, OCI], "two tasks on each node")
    client = cluster.lab.client
    for number in (11, 12):
        url = f"http://10.77.0.{number}:4567"
        eventually(lambda url=url: len(_answering(cluster, url)) == 4, "all four tasks answer")  # type: ignore[misc]
        assert {http_get(client, f"{url}/peer") for _ in range(8)} == {f"{CLIENT}\n"}


ASK = r"""
$| = 1;
while (1) {
    select(undef, undef, undef, 0.2);
    my $address = gethostbyname('db') or next;
    socket(my $s, 2, 1, 6) or die "socket: $!";
    connect($s, pack('S n a4 x8', 2, 4567, $address)) or next;
    syswrite($s, "GET / HTTP/1.0\r\n\r\n");
    my $answer = '';
    while (sysread($s, $answer, 65536, length $answer)) { }
    print "$1 answered\n" if $answer =~ /\r\n\r\n(\w+)/;
}
"""
"""Who answers under the name. In Perl, for a static busybox cannot look up names."""


def test_tasks_find_each_other_by_name_across_both(cluster: Cluster) -> None:
    cluster.ctl(DOCKER, "network", "create", "--driver", "overlay", "backend")
    common = ("--network", "backend", "--replicas", "2")
    cluster.ctl(DOCKER, "service", "create", "--name", "db", *common, "whoami:1")
    ask = ("--entrypoint", "/usr/bin/perl", "whoami:1", "-e", ASK)
    cluster.ctl(DOCKER, "service", "create", "--name", "app", *common, *ask)
    for name in ("db", "app"):
        eventually(lambda name=name: _nodes_of(cluster, name) == [DOCKER, OCI], f"{name} on both nodes")  # type: ignore[misc]

    def heard() -> bool:
        output = cluster.ctl(DOCKER, "service", "logs", "app").stdout
        found = set(re.findall(r"^app\.(\d)\.\S*\s*\|\s*(\w+) answered$", output, re.MULTILINE))
        assert len(found) == 4, output[-1000:]  # each task of one service has heard both of the other
        return True

    eventually(heard, "both tasks of app reach both of db")


def test_commands_run_in_a_container_of_the_engine(cluster: Cluster) -> None:
    form = "{{.Name}} {{.Node}}"
    lines = cluster.ctl(DOCKER, "service", "ps", "web", "--format", form).stdout.splitlines()
    name = next(line.split()[0] for line in lines if line.split()[1] == DOCKER)
    assert cluster.ctl(DOCKER, "exec", name, "sh", "-c", "echo $((6*7))").stdout == "42\n"
    assert "whoami" in cluster.ctl(DOCKER, "ps").stdout


CANARY = "canary-8c2d41-of-the-engine"


def test_a_secret_is_nowhere_in_the_engine(cluster: Cluster) -> None:
    """Not in its data, what it tells of the container, or an image of that; in the tmpfs of the task only."""
    host, search = cluster.lab[DOCKER], Canary(CANARY)
    cluster.ctl(DOCKER, "secret", "create", "canary", "-", input=CANARY)
    create = ("service", "create", "--name", "keeper", "--secret", "canary", "-p", "4569:4567")
    show = ("-e", "SECRET_PATH=/run/secrets/canary", "--constraint", f"node.hostname=={DOCKER}")
    cluster.ctl(DOCKER, *create, *show, "secret:latest")
    assert http_get(cluster.lab.client, "http://10.77.0.11:4569/") == CANARY
    (task,) = cluster.ctl(DOCKER, "ps", "--filter", "name=keeper", "-q").stdout.split()
    cluster.ctl(DOCKER, "commit", task, "committed_canary")
    told = (
        cluster.ctl(DOCKER, "inspect", task).stdout
        + cluster.ctl(DOCKER, "service", "inspect", "keeper").stdout
    )
    assert CANARY not in told
    assert len(search.held(host)) == 1, "the search would find it"
    assert search.elsewhere(host) == []
    cluster.ctl(DOCKER, "service", "rm", "keeper")
    eventually(lambda: search.held(host) == [], "it is gone with its task")


def test_an_engine_that_restarts_takes_its_tasks_with_it_and_they_are_replaced(cluster: Cluster) -> None:
    host = cluster.lab[DOCKER]
    before = _ids(cluster)
    host.run(["sh", "-c", "pid=$(cat /run/docker.pid); kill $pid; while kill -0 $pid; do sleep 0.05; done"])
    host.start([PROGRAM, "--data-root", str(host.directory / "engine"), *ENGINE], log="dockerd.log")
    eventually(lambda: _engine_answers(cluster.lab), "dockerd answers again")
    eventually(
        lambda: len(_nodes_of(cluster, "web")) == 4 and len(_ids(cluster) - before) >= 2,
        "the tasks that ended with the Engine are replaced",
        timeout=60,
    )
    eventually(lambda: len(_answering(cluster, "http://10.77.0.12:4567")) == 4, "all four tasks answer")


def _ids(cluster: Cluster) -> set[str]:
    told = cluster.ctl(DOCKER, "service", "ps", "web", "--no-trunc", "-q")
    return set(told.stdout.split())
