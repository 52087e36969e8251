"""An encrypted network on three real nodes: used, its keys changed under load, looked at, broken and mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.hosts import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NODES = ("core-01", "core-02", "core-03")
PERIOD = "12s"

CAPTURE = """
import socket, sys, time
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind(("eth0", 0))
link.settimeout(0.2)
vni, end = int(sys.argv[1]).to_bytes(3, "big"), time.monotonic() + float(sys.argv[2])
plain = sealed = 0
while time.monotonic() < end:
    try:
        frame = link.recv(65536)
    except TimeoutError:
        continue
    if frame[12:14] == b"\\x08\\x00" and frame[23] == 17:
        udp = frame[14 + (frame[14] & 15) * 4:]
        plain += udp[2:4] == (4789).to_bytes(2, "big") and udp[12:15] == vni
        sealed += udp[2:4] == (51820).to_bytes(2, "big")
print(plain, sealed)
"""

FETCH = r"""
alarm 40;
my $until = time + $ARGV[0];
my $count = 0;
while (time < $until) {
    my $address = gethostbyname("web") or die "web: unknown";
    socket(my $s, 2, 1, 6) or die "socket: $!";
    connect($s, pack('S n a4 x8', 2, 4567, $address)) or die "connect: $!";
    syswrite($s, "GET / HTTP/1.0\r\n\r\n");
    sysread($s, my $answer, 65536);
    die "got: $answer" unless $answer =~ /200 OK/;
    $count++;
}
die "only $count" unless $count > 50;
"""
"""Connects again and again for so many seconds, to all tasks in turn."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab(f"k{os.getpid() % 10000}", NODES) as lab:
        cluster = Cluster(lab, worker_options=("--encryption-key-period", PERIOD))
        cluster.start(*NODES)
        yield cluster


def _doctor(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    done = cluster.ctl("core-01", "network", "doctor", *arguments, check=False)
    return done.returncode, done.stdout


def _key(cluster: Cluster, name: str) -> str:
    """What the node announced first of its present keys."""
    log = cluster.lab[name].log("mini-worker.log")
    return next((line for line in reversed(log.splitlines()) if "rotated" in line), "")


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))


def test_tasks_on_all_nodes_use_an_encrypted_network_while_keys_change(cluster: Cluster) -> None:
    """Each node changes its keys at least twice meanwhile; nobody notices."""
    cluster.ctl("core-01", "network", "create", "--driver", "overlay", "--opt", "encrypted", "secret")
    create = ("service", "create", "--name", "web", "--replicas", "3", "--network", "secret")
    cluster.ctl("core-01", *create, "-p", "4567:4567", "whoami:1")
    before = [_key(cluster, name) for name in NODES]
    vni = json.loads(cluster.ctl("core-01", "network", "inspect", "secret").stdout)[0]["Options"]
    job = ("service", "create", "--mode", "replicated-job", "--restart-condition", "none", "--name", "ask")
    script = ("--network", "secret", "--entrypoint", "/usr/bin/perl", "whoami:1", "-e", FETCH, "26")
    number = str(vni["com.docker.network.driver.overlay.vxlanid_list"])
    capture = cluster.lab["core-02"].start(["python3", "-c", CAPTURE, number, "26"], log="capture.log")
    done = cluster.ctl("core-01", *job, *script, check=False)
    assert done.returncode == 0, cluster.ctl("core-01", "service", "logs", "ask", check=False).stdout
    capture.wait()
    plain, sealed = map(int, cluster.lab["core-02"].log("capture.log").split())
    assert (plain, sealed > 50) == (0, True)
    after = [_key(cluster, name) for name in NODES]
    assert all(old != new for old, new in zip(before, after, strict=True))
    cluster.ctl("core-01", "service", "rm", "ask")


def test_the_doctor_finds_nothing_until_somebody_changes_something(cluster: Cluster) -> None:
    well = "".join(f"{name}: as it should be\n" for name in NODES)
    eventually(lambda: _doctor(cluster) == (0, well), "all nodes are as they should be")
    links = cluster.lab["core-02"].run(["ip", "-o", "-br", "link"]).stdout
    bridge = next(word for word in links.split() if word.startswith("mbr-"))
    cluster.lab["core-02"].run(["ip", "addr", "flush", "dev", bridge])
    code, out = _doctor(cluster)
    assert code == 1
    assert "core-01: as it should be\ncore-02: " in out
    assert "  kernel  address missing: 10." in out
    assert f"on {bridge}\n" in out
    assert "core-02" not in _doctor(cluster, "--node", "core-03")[1]
    eventually(lambda: _doctor(cluster) == (0, well), "the node has repaired it", timeout=60)


def test_a_trace_tells_the_way_that_a_packet_really_goes(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "trace", "--client", "10.77.0.99", "core-02:4567")
    lines = done.stdout.splitlines()
    assert lines[0] == "10.77.0.99 -> core-02 (10.77.0.12) port 4567/tcp"
    assert "  rule     map served: tcp . 4567 -> tcp-4567" in lines
    assert "  goes to  one of 3, in turn:" in lines
    for name in NODES:
        where = "here, by mve-" if name == "core-02" else f"on {name}, by tunnel mvx-"
        assert any(where in line for line in lines), done.stdout
    assert sum(line.startswith("  back     ") for line in lines) == 2
    assert lines[-1] == "  answer   leaves core-02 from 10.77.0.12:4567 to 10.77.0.99"
    assert len(lines) <= 10


def test_a_trace_of_what_does_not_arrive_says_why(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "trace", "core-02:4568", check=False)
    assert done.returncode == 1
    assert "closed   4568/tcp is not published on core-02, and no process there listens on it" in done.stdout
    done = cluster.ctl("core-01", "trace", "--protocol", "udp", "core-02:4567", check=False)
    assert "closed   4567/udp is not published on core-02" in done.stdout
    cluster.ctl("core-01", "service", "scale", "web=0")
    done = cluster.ctl("core-01", "trace", "core-02:4567", check=False)
    assert done.returncode == 1
    assert "refused  no task may get its traffic now; the client is told at once" in done.stdout


def test_a_node_that_leaves_has_nothing_of_it_left(cluster: Cluster) -> None:
    host = cluster.lab["core-03"]
    cluster.ctl("core-01", "service", "scale", "web=3")
    assert host.run(["pgrep", "-x", "wireguard-go"]).stdout
    cluster.ctl("core-03", "swarm", "leave")
    assert host.run(["pgrep", "-x", "wireguard-go"], check=False).returncode == 1
    assert "mini-wg" not in host.run(["ip", "link"]).stdout
    assert not list((host.directory / "data").rglob("wireguard.json"))
    code, out = _doctor(cluster)
    assert code == 1
    assert "core-03: node core-03 is not connected" in out
