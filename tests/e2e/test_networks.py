"""Networks of users on three real nodes, from the command line to the packets of their tasks."""

from __future__ import annotations

import json
from collections import Counter
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
    """The nodes that have anything of the network."""
    links = (f"mbr-{network_id[:8]}", f"mvx-{network_id[:8]}")
    shown = {name: cluster.lab[name].run(["ip", "link", "show"]).stdout for name in NODES}
    return [name for name in NODES if any(link in shown[name] for link in links)]


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in NODES:
        for image in ("whoami:1", "busybox:latest"):
            cluster.ctl(name, "image", "load", "-i", str(archives[image]))


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


TURNS = r"""
my ($name, $count) = @ARGV;
my $address = gethostbyname($name) or die "$name: unknown";
for (1 .. $count) {
    socket(my $s, 2, 1, 6) or die "socket: $!";
    connect($s, pack('S n a4 x8', 2, 4567, $address)) or die "$name: $!";
    syswrite($s, "GET / HTTP/1.0\r\n\r\n");
    my $answer = '';
    while (sysread($s, $answer, 65536, length $answer)) { }
    print $answer =~ /\r\n\r\n(.*)/s ? $1 : "nothing\n";
}
"""
"""Who answers each of so many connections to one address."""

LOAD = r"""
$| = 1;
my ($done, $kept) = (0, undef);
sub fail { print "failed after $done: @_\n"; undef $kept }
sub dial {
    my $address = gethostbyname('web') or return fail('web: unknown');
    socket(my $s, 2, 1, 6) or die "socket: $!";
    connect($s, pack('S n a4 x8', 2, 4567, $address)) or return fail("connect: $!");
    return $s;
}
sub ask {  # whether the connection may be used again; undef: it has failed
    my ($s, $how) = @_;
    syswrite($s, "GET / HTTP/1.1\r\nHost: web\r\nConnection: $how\r\n\r\n") or return;
    my $answer = '';
    sysread($s, $answer, 65536, length $answer) or return until $answer =~ /\r\n\r\n.+\n/s;
    return if $answer !~ /^HTTP\/1\.1 200 /;
    return $answer !~ /^Connection: close/mi || 0;
}
$SIG{PIPE} = 'IGNORE';
while (1) {
    my $new = dial() or next;
    defined ask($new, 'close') or fail("a new connection: $!");
    $kept //= dial() // next;
    my $again = ask($kept, 'keep-alive');
    defined $again or fail("a kept connection: $!");
    undef $kept unless $again;
    print "requests $done\n" if ($done += 2) % 100 == 0;
    select(undef, undef, undef, 0.005);
}
"""
"""Requests without end, on connections that are kept and on new ones. Says what failed, and how far it has come."""


def test_a_virtual_address_takes_its_tasks_in_turn_and_dnsrr_names_all_of_them(cluster: Cluster) -> None:
    run = ("run", "--rm", "--network", "backend", "--entrypoint", "/usr/bin/perl", "whoami:1", "-e")
    for mode in ("vip", "dnsrr"):
        create = ("service", "create", "--name", "web", "--replicas", "3", "--endpoint-mode", mode)
        cluster.ctl("core-01", *create, "--network", "backend", "whoami:1")
        if mode == "vip":
            answers = Counter(cluster.ctl("core-01", *run, TURNS, "web", "30").stdout.split())
            assert sorted(answers.values()) == [10, 10, 10]
        script = "my (undef, undef, undef, undef, @found) = gethostbyname('web'); print scalar @found;"
        assert cluster.ctl("core-01", *run, script).stdout == {"vip": "1", "dnsrr": "3"}[mode]
        cluster.ctl("core-01", "service", "rm", "web")


def test_an_update_behind_a_virtual_address_loses_no_request_of_the_network(cluster: Cluster) -> None:
    create = ("service", "create", "--name", "web", "--replicas", "3", "--network", "backend")
    checks = ("--health-tcp", "4567", "--health-interval", "1s", "--update-monitor", "500ms")
    cluster.ctl("core-01", *create, *checks, "whoami:1")
    load = ("service", "create", "--name", "load", "--mode", "global", "--network", "backend")
    cluster.ctl("core-01", *load, "--entrypoint", "/usr/bin/perl", "whoami:1", "-e", LOAD)

    def lines() -> list[str]:
        return cluster.ctl("core-01", "service", "logs", "--no-trunc", "load").stdout.splitlines()

    def most(node: str) -> int:
        return max((int(line.split()[-1]) for line in lines() if f"@{node} " in line), default=0)

    def all_go_on() -> None:
        reached = {node: most(node) for node in NODES}
        for node in NODES:
            eventually(lambda node=node: most(node) > reached[node], f"{node} sends requests")  # type: ignore[misc]

    all_go_on()
    for change in (["--force"], ["--update-order", "start-first", "--env-add", "V=2"]):
        assert (
            "verify: Service converged\n"
            in cluster.ctl("core-01", "service", "update", *change, "web").stdout
        )
    for count in (5, 2):
        cluster.ctl("core-01", "service", "scale", f"web={count}")
    all_go_on()
    assert [line for line in lines() if "failed" in line] == []
    cluster.ctl("core-01", "service", "rm", "load", "web")


def test_a_container_is_connected_to_a_network_and_disconnected_while_it_runs(cluster: Cluster) -> None:
    cluster.ctl("core-01", "service", "create", "--name", "web", "--network", "backend", "whoami:1")
    for name in ("plain", "asked"):
        cluster.ctl("core-01", "run", "-d", "--name", name, "whoami:1")

    def reaches(name: str, host: str) -> bool:
        ask = ("exec", name, "/usr/bin/perl", "-e", ASK, host)
        return cluster.ctl("core-01", *ask, check=False).returncode == 0

    def refused(*arguments: str) -> str:
        done = cluster.ctl("core-01", "network", *arguments, check=False)
        assert done.returncode == 1
        return done.stderr

    before = cluster.ctl("core-01", "exec", "plain", "cat", "/etc/resolv.conf").stdout
    assert not reaches("plain", "web")
    assert cluster.ctl("core-01", "network", "connect", "backend", "plain").stdout == ""
    eventually(lambda: reaches("plain", "web"), "it reaches the services of the network by name")
    cluster.ctl("core-01", "network", "connect", "--alias", "oracle", "backend", "asked")
    eventually(lambda: reaches("plain", "oracle"), "and another container by its alias")
    assert reaches("plain", "asked")
    assert "endpoint with name plain already exists in network backend" in refused(
        "connect", "backend", "plain"
    )
    (network,) = json.loads(cluster.ctl("core-01", "network", "inspect", "-v", "backend").stdout)
    assert {"plain", "asked", "web"} == set(network["Services"])
    cluster.ctl("core-01", "network", "disconnect", "backend", "plain")
    eventually(lambda: not reaches("plain", "web"), "it is off the network")
    assert not reaches("asked", "plain")
    assert cluster.ctl("core-01", "exec", "plain", "cat", "/etc/resolv.conf").stdout == before
    assert "container plain is not connected to network backend" in refused("disconnect", "backend", "plain")
    cluster.ctl("core-01", "network", "create", "closed")
    assert "network closed not manually attachable" in refused("connect", "closed", "plain")
    assert "No such container: nobody" in refused("connect", "backend", "nobody")
    cluster.ctl("core-01", "network", "rm", "closed")
    cluster.ctl("core-01", "service", "rm", "web")
    assert "network backend is in use by container asked" in refused("rm", "backend")
    cluster.ctl("core-01", "rm", "-f", "asked", "plain")


def test_a_container_that_has_ended_lets_go_of_its_network(cluster: Cluster) -> None:
    cluster.ctl("core-01", "network", "create", "--attachable", "short")
    out = cluster.ctl("core-01", "run", "--name", "brief", "--network", "short", "busybox", "echo", "done")
    assert out.stdout == "done\n"
    assert cluster.ctl("core-01", "network", "rm", "short").stdout == "short\n"
    cluster.ctl("core-01", "rm", "brief")


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
