"""Networks of users on three real nodes, from the command line to the packets of their tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODES = ("core-01", "core-02", "core-03")


ASK = r"""
alarm 10;
for my $name (@ARGV) {
    my $address = gethostbyname($name) or die "$name: unknown";
    socket(my $s, 2, 1, 6) or die "socket: $!";
    connect($s, pack('S n a4 x8', 2, 4567, $address)) or die "$name: $!";
    syswrite($s, "GET / HTTP/1.0\r\n\r\n");
    sysread($s, my $answer, 65536);
    die "$name: $answer" unless $answer =~ /200 OK/;
}
"""
"""Asks each host of the command line for its page. In Perl, for a static busybox cannot look up names."""


def _reaches(cluster: Cluster, *names: str, flags: tuple[str, ...] = ()) -> bool:
    """Whether a task with the flags gets an answer from a web server under each of the names."""
    create = ("service", "create", "--mode", "replicated-job", "--restart-condition", "none", "--name", "ask")
    script = ("--entrypoint", "/usr/bin/perl", "whoami:1", "-e", ASK)
    done = cluster.ctl("core-01", *create, *flags, *script, *names, check=False)
    cluster.ctl("core-01", "service", "rm", "ask")
    return done.returncode == 0


def _bridges(cluster: Cluster, network_id: str) -> list[str]:
    """The nodes that have the network."""
    link = f"mbr-{network_id[:8]}"
    return [
        name
        for name in NODES
        if cluster.lab[name].run(["ip", "link", "show", link], check=False).returncode == 0
    ]


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))


def test_a_network_is_created_and_no_node_has_it_yet(cluster: Cluster) -> None:
    out = cluster.ctl("core-01", "network", "create", "--attachable", "--driver", "overlay", "backend").stdout
    listed = cluster.ctl("core-01", "network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").stdout
    assert listed.splitlines() == ["backend overlay swarm", "ingress overlay swarm"]
    assert _bridges(cluster, out.strip()) == []


@pytest.mark.parametrize("mode", ["vip", "dnsrr"])
def test_services_reach_each_other_by_name_from_every_node(cluster: Cluster, mode: str) -> None:
    create = ("service", "create", "--name", "web", "--replicas", "3", "--endpoint-mode", mode)
    out = cluster.ctl("core-01", *create, "--network", "name=backend,alias=shop", "whoami:1").stdout
    assert "overall progress: 3 out of 3 tasks\n" in out
    names = ("web", "shop", "tasks.web")
    for node in NODES:
        there = ("--constraint", f"node.hostname=={node}")
        assert _reaches(cluster, *names, flags=("--network", "backend", *there))
    assert not _reaches(cluster, "web")
    cluster.ctl("core-01", "service", "rm", "web")


def test_a_network_shows_who_is_on_it_and_stays_while_it_is_used(cluster: Cluster) -> None:
    cluster.ctl("core-01", "service", "create", "--name", "web", "--network", "backend", "whoami:1")
    (network,) = json.loads(cluster.ctl("core-01", "network", "inspect", "-v", "backend").stdout)
    (node,) = [peer["Name"] for peer in network["Peers"]]
    assert list(network["Services"]) == ["web"]
    assert len(network["Containers"]) == 1
    eventually(lambda: _bridges(cluster, network["Id"]) == [node], "only the task's node has the network")
    done = cluster.ctl("core-01", "network", "rm", "backend", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "Error response from daemon: network backend is in use by service web\n",
    )


def test_a_service_changes_its_networks_and_the_old_one_goes_everywhere(cluster: Cluster) -> None:
    old = cluster.ctl("core-01", "network", "inspect", "-f", "{{.Id}}", "backend").stdout.strip()
    cluster.ctl("core-01", "network", "create", "front")
    change = ("service", "update", "--network-rm", "backend", "--network-add", "front", "web")
    assert "verify: Service converged\n" in cluster.ctl("core-01", *change).stdout
    assert _reaches(cluster, "web", flags=("--network", "front"))
    assert cluster.ctl("core-01", "network", "rm", "backend").stdout == "backend\n"
    eventually(lambda: not _bridges(cluster, old), "no node has the removed network")
    cluster.ctl("core-01", "service", "rm", "web")
    assert cluster.ctl("core-01", "network", "prune", "-f").stdout == "Deleted Networks:\nfront\n\n"
