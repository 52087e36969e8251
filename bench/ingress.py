"""Requests per second through a published port, against straight to the task's own address.

Two nodes and a client in network namespaces. The task answers without reading what it was asked, one process for each
connection, so that the way and not the server is measured. Every way is measured in turn, several times in one run;
only the ratios carry over to other machines. Needs root, wrk and perl.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from miniworker.network.api import Attachment, Sandbox
from support.cluster import eventually
from support.hosts import Host, Lab
from support.ingress_site import NETWORK, SUBNET, Site, published

ROUNDS = 3
SECONDS = 2
CONNECTIONS = 32

FIRST_PORT, TARGET = 4567, 8000

MODES: Mapping[str, tuple[str, ...]] = {
    "keep-alive": (),
    "connection per request": ("--header", "Connection: close"),
}

_SERVER = r"""
my ($port, $workers) = @ARGV;
socket(my $listener, 2, 1, 6) or die "socket: $!";
setsockopt($listener, 1, 2, pack('i', 1)) or die "setsockopt: $!";
bind($listener, pack('S n a4 x8', 2, $port, "\0" x 4)) or die "bind: $!";
listen($listener, 1024) or die "listen: $!";
for (2 .. $workers) { last unless fork() // die "fork: $!" }
$SIG{PIPE} = 'IGNORE';
my $head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n";
print STDOUT "ready\n";
close STDOUT;
while (1) {
    accept(my $client, $listener) or next;
    setsockopt($client, 6, 1, pack('i', 1));
    while (sysread($client, my $request, 4096)) {
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
    """The way without us that it is compared with."""

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
        return f"http://{self.node}:{self.port}/" if self.node else f"http://{self.task_address}:{TARGET}/"


def main() -> None:
    """Print the medians, and the ratios to going straight."""
    with Lab(f"b{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site, ways = Site(lab), _ways(lab)
        try:
            _prepare(site, ways)
            medians = {mode: _measure(ways, options) for mode, options in MODES.items()}
        finally:
            site.close()
    print(f"{'requests/s':<40}" + "".join(f"{mode:>24} {'ratio':>6}" for mode in MODES))
    for way in ways:
        cells = [(medians[mode][way.name], medians[mode][way.against or way.name]) for mode in MODES]
        print(
            f"{way.name:<40}" + "".join(f"{ours:>24,.0f} {ours / straight:>6.2f}" for ours, straight in cells)
        )


def _ways(lab: Lab) -> list[Way]:
    """The tasks are on the first node."""
    first, second, client = lab["core-01"], lab["core-02"], lab.client
    outside, inside = "client, straight to the task", "node, straight to the task"
    return [
        Way(outside, client, 0),
        Way("client, ingress of the task's node", client, 1, first.address, outside),
        Way("client, ingress of another node", client, 2, second.address, outside),
        Way(inside, first, 3),
        Way("node, its own ingress (userspace path)", first, 4, "127.0.0.1", inside),
    ]


def _prepare(site: Site, ways: list[Way]) -> None:
    """The tasks on the first node, their ports published on both, and a way straight to them from outside."""
    for number, name in enumerate(("core-01", "core-02"), 1):
        site.add_node(name, number)
    site.spread_fabric()
    for way in ways:
        _serve(site, way)
    site.spread_fabric()
    table = [published(way.port, TARGET, {way.task: way.task_address}) for way in ways]
    for node in site.nodes.values():
        assert not node.apply(*table).problems
    host, client = site.lab["core-01"], site.lab.client
    client.run(["ip", "route", "add", str(SUBNET), "via", host.address])
    host.run(["nft", "insert", "rule", "ip", "mini", "forward", "ip", "saddr", client.address, "accept"])


def _serve(site: Site, way: Way) -> None:
    node = site.nodes["core-01"]
    node.tasks[way.task] = way.task_address
    attached = node.driver.call("attach", Sandbox(way.task, (Attachment(NETWORK, way.task_address),)))
    server = ["nsenter", f"--net={attached.netns}", "perl", "-e", _SERVER, str(TARGET), str(2 * CONNECTIONS)]
    node.host.start(server, log=f"{way.task}.log")
    eventually(lambda: "ready" in node.host.log(f"{way.task}.log"), f"{way.task} serves")


def _measure(ways: list[Way], options: tuple[str, ...]) -> dict[str, float]:
    """Median requests per second of each way, measured in turn so that a busy moment hits all of them."""
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            found[way.name].append(_requests_per_second(way, options))
    return {name: statistics.median(values) for name, values in found.items()}


def _requests_per_second(way: Way, options: tuple[str, ...]) -> float:
    size = ("--threads=1", f"--connections={CONNECTIONS}", f"--duration={SECONDS}s")
    output = way.client.run(["wrk", *size, *options, way.url]).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if rate is None or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{way.name}: not every request was answered:\n{output}")
    return float(rate[1])


if __name__ == "__main__":
    main()
