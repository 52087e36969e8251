"""Requests per second and throughput through a published port, against straight to the task's own address.

Two nodes, a host with Docker, and a client, in network namespaces. The task answers without reading what it was asked,
one process for each connection, so that the way and not the server is measured. Every way is measured in turn, several
times in one run; only the ratios carry over to other machines. Needs root and what `scripts/setup --bench` installs.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from miniworker.network.api import Attachment, Sandbox
from support.cluster import eventually
from support.hosts import Host, Lab
from support.ingress_site import NETWORK, SUBNET, Site, published

from bench.ingress_rivals import Docker, start_haproxy

ROUNDS = 5
SECONDS = 1

FIRST_PORT, TARGET = 4567, 8000


@dataclass(frozen=True, slots=True)
class Mode:
    """One kind of load, and what wrk says that counts."""

    name: str
    unit: str
    options: tuple[str, ...] = ()
    path: str = "/"
    connections: int = 32

    def result(self, output: str) -> float:
        """From what wrk printed; requests or megabytes per second."""
        if self.unit == "requests/s":
            found = re.search(r"Requests/sec:\s+([\d.]+)", output)
            return float(found[1]) if found else 0
        found = re.search(r"Transfer/sec:\s+([\d.]+)([KMG])B", output)
        return float(found[1]) * {"K": 1e-3, "M": 1, "G": 1e3}[found[2]] if found else 0


MODES = (
    Mode("keep-alive", "requests/s"),
    Mode("connection each", "requests/s", ("--header", "Connection: close")),
    Mode("large bodies", "MB/s", (), "/large", connections=4),
)

_SERVER = r"""
my ($port, $workers) = @ARGV;
socket(my $listener, 2, 1, 6) or die "socket: $!";
setsockopt($listener, 1, 2, pack('i', 1)) or die "setsockopt: $!";
bind($listener, pack('S n a4 x8', 2, $port, "\0" x 4)) or die "bind: $!";
listen($listener, 1024) or die "listen: $!";
for (2 .. $workers) { last unless fork() // die "fork: $!" }
$SIG{PIPE} = 'IGNORE';
my $head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n";
my $large = "HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n" . ("x" x 8388608);
print STDOUT "ready\n";
close STDOUT;
while (1) {
    accept(my $client, $listener) or next;
    setsockopt($client, 6, 1, pack('i', 1));
    while (sysread($client, my $request, 4096)) {
        if (index($request, 'GET /large') == 0) {
            my $sent = 0;
            while ($sent < length $large) { $sent += syswrite($client, $large, 1 << 20, $sent) // last }
            next;
        }
        my $last = index($request, 'Connection: close') >= 0;
        syswrite($client, $head . ($last ? "Connection: close\r\n\r\nok\n" : "\r\nok\n")) or last;
        last if $last;
    }
    close $client;
}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How requests get to a task; each way has a task of its own.

    Otherwise a connection could meet the remains of one that came another way from the same port of the same client,
    and would wait for these.
    """

    name: str
    client: Host
    number: int
    node: str = ""
    """Where the request enters; empty: it goes straight to the task."""
    against: str = ""
    """The way that it is compared with; empty: the first of all."""

    @property
    def task(self) -> str:
        return f"{self.number}taskaaaaaaaaaaaaaaaaaaaa"

    @property
    def task_address(self) -> IPv4Address:
        return SUBNET[10 + self.number]

    @property
    def port(self) -> int:
        return FIRST_PORT + self.number

    @property
    def url(self) -> str:
        return f"http://{self.node}:{self.port}" if self.node else f"http://{self.task_address}:{TARGET}"


STRAIGHT = "client, straight to the task"
ROUTED = "client, routed by another node, no tunnel"
OWN = "client, ingress of the task's node"
OTHER = "client, ingress of another node"
USERSPACE = "client, userspace path of the task's node"
HAPROXY = "client, haproxy on the task's node"
DOCKER = "client, docker run -p"
INSIDE = "node, straight to the task"
INSIDE_USERSPACE = "node, its own ingress (userspace path)"

IPV6 = "fd77::11"
"""Of the first node: clients that come over IPv6 are served in userspace."""


def main() -> None:
    """Print medians, and the median ratios to going straight in the same round."""
    with Lab(f"b{os.getpid() % 10000}", ["core-01", "core-02", "docker-01"]) as lab:
        site, ways = Site(lab), _ways(lab)
        docker = Docker(lab["docker-01"])
        try:
            _prepare(site, ways, docker)
            for mode in MODES:
                _print(mode, ways, _measure(ways, mode))
        finally:
            docker.close()
            site.close()


def _ways(lab: Lab) -> list[Way]:
    """The tasks are on the first node."""
    first, second, client = lab["core-01"], lab["core-02"], lab.client
    return [
        Way(STRAIGHT, client, 0),
        Way(ROUTED, client, 1),
        Way(OWN, client, 2, first.address),
        Way(OTHER, client, 3, second.address),
        Way(USERSPACE, client, 4, f"[{IPV6}]"),
        Way(HAPROXY, client, 5, first.address),
        Way(DOCKER, client, 6, lab["docker-01"].address),
        Way(INSIDE, first, 7),
        Way(INSIDE_USERSPACE, first, 8, "127.0.0.1", INSIDE),
    ]


def _prepare(site: Site, ways: list[Way], docker: Docker) -> None:
    """The tasks on the first node, their ports published on both, and ways around us."""
    for number, name in enumerate(("core-01", "core-02"), 1):
        site.add_node(name, number)
    first, client = site.lab["core-01"], site.lab.client
    for host, address in ((first, IPV6), (client, "fd77::99")):
        host.run(["ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad"])
    site.spread_fabric()
    found = {way.name: way for way in ways}
    for way in ways:
        if way.name == DOCKER:
            docker.run(_SERVER, _server_arguments(), port=way.port, target=TARGET)
        else:
            _serve(site, way)
    site.spread_fabric()
    published_ways = [way for way in ways if way.name not in (HAPROXY, DOCKER)]
    table = [published(way.port, TARGET, {way.task: way.task_address}) for way in published_ways]
    for node in site.nodes.values():
        assert not node.apply(*table).problems
    client.run(["ip", "route", "add", str(SUBNET), "via", first.address])
    first.run(["nft", "insert", "rule", "ip", "mini", "forward", "ip", "saddr", client.address, "accept"])
    _route(site, found[ROUTED])
    start_haproxy(first, port=found[HAPROXY].port, target=f"{found[HAPROXY].task_address}:{TARGET}")


def _route(site: Site, way: Way) -> None:
    """Lead a way through the second node and back, as a router would: what any second hop costs."""
    first, second, client = site.lab["core-01"], site.lab["core-02"], site.lab.client
    for host in (first, second, client):
        for name in ("all", "eth0"):
            host.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.send_redirects=0"])
            host.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"])
    client.run(["ip", "route", "add", str(way.task_address), "via", second.address])
    second.run(["ip", "route", "add", str(way.task_address), "via", first.address, "dev", "eth0"])
    first.run(["ip", "rule", "add", "from", str(way.task_address), "to", client.address, "lookup", "77"])
    first.run(["ip", "route", "add", "default", "via", second.address, "table", "77"])


def _server_arguments() -> list[str]:
    return [str(TARGET), str(2 * max(mode.connections for mode in MODES))]


def _serve(site: Site, way: Way) -> None:
    node = site.nodes["core-01"]
    node.tasks[way.task] = way.task_address
    attached = node.driver.call("attach", Sandbox(way.task, (Attachment(NETWORK, way.task_address),)))
    server = ["nsenter", f"--net={attached.netns}", "perl", "-e", _SERVER, *_server_arguments()]
    node.host.start(server, log=f"{way.task}.log")
    eventually(lambda: "ready" in node.host.log(f"{way.task}.log"), f"{way.task} serves")


def _measure(ways: list[Way], mode: Mode) -> list[dict[str, float]]:
    """What each way does in each round; in turn, so that a busy moment of the machine hits all of them."""
    return [{way.name: _load(way, mode) for way in ways} for _ in range(ROUNDS)]


def _load(way: Way, mode: Mode) -> float:
    size = ("--threads=1", f"--connections={mode.connections}", f"--duration={SECONDS}s")
    output = way.client.run(["wrk", *size, *mode.options, way.url + mode.path]).stdout
    result = mode.result(output)
    if not result or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{way.name}: not every request was answered:\n{output}")
    return result


def _print(mode: Mode, ways: list[Way], rounds: list[dict[str, float]]) -> None:
    print(f"{mode.name:<44}{mode.unit:>12}{'ratio':>8}{'of rounds':>14}", flush=True)
    for way in ways:
        against = way.against or (way.name if way.name == INSIDE else STRAIGHT)
        ratios = sorted(item[way.name] / item[against] for item in rounds)
        median = statistics.median(item[way.name] for item in rounds)
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        print(f"  {way.name:<42}{median:>12,.0f}{statistics.median(ratios):>8.2f}{spread:>14}", flush=True)


if __name__ == "__main__":
    main()
