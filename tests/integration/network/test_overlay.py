"""User networks on two nodes: who reaches whom, and who does not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from miniworker.network.api import AttachedSandbox, Attachment, Sandbox
from support.hosts import Lab
from support.overlay_site import PORT, Site, network

pytestmark = pytest.mark.root

A, B, INTERNAL, SMALL = network(1), network(2), network(3, internal=True), network(4, mtu=1400)
HOST_PORT = 9000

TASKS: dict[str, tuple[str, tuple[IPv4Address, ...]]] = {
    "a1aaaaaaaaaaaaaa": ("core-01", (A.subnet[11],)),
    "a2aaaaaaaaaaaaaa": ("core-02", (A.subnet[12],)),
    "b1aaaaaaaaaaaaaa": ("core-01", (B.subnet[11],)),
    "abaaaaaaaaaaaaaa": (
        "core-02",
        (
            A.subnet[13],
            B.subnet[13],
        ),
    ),
    "i1aaaaaaaaaaaaaa": ("core-01", (INTERNAL.subnet[11],)),
    "i2aaaaaaaaaaaaaa": ("core-02", (INTERNAL.subnet[12],)),
    "aiaaaaaaaaaaaaaa": (
        "core-01",
        (
            INTERNAL.subnet[13],
            A.subnet[14],
        ),
    ),
    "s1aaaaaaaaaaaaaa": ("core-01", (SMALL.subnet[11],)),
    "s2aaaaaaaaaaaaaa": ("core-02", (SMALL.subnet[12],)),
}
A1, A2, B1, AB, I1, I2, AI, S1, S2 = TASKS
PROTOCOLS = ("tcp", "udp")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Each host has a server for the world on `HOST_PORT` and one where its DNS server would be."""
    with Lab(f"o{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site = Site(lab, (A, B, INTERNAL, SMALL))
        try:
            for name in ("core-01", "core-02"):
                site.add_node(name)
            site.spread()
            for task, (name, addresses) in TASKS.items():
                site.start_task(name, task, *addresses)
            site.spread()
            for name in ("core-01", "core-02", "client"):
                site.start_server(name, name, port=HOST_PORT)
            for name in ("core-01", "core-02"):
                site.start_server(f"dns-{name}", name, port=53)
            yield site
        finally:
            site.close()


def cannot(site: Site, *questions: tuple[str, object, int]) -> list[str]:
    """What the asker (task or host) of an address and a port was told, for tcp and udp each, all at the same time."""

    def ask(question: tuple[str, object, int, str]) -> str:
        where, address, port, protocol = question
        with pytest.raises(subprocess.CalledProcessError) as raised:
            site.ask(where, address, port, protocol=protocol)
        return str(raised.value.stderr).strip().splitlines()[-1]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, [(*item, protocol) for item in questions for protocol in PROTOCOLS]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tasks_of_a_network_reach_each_other_on_any_node_and_see_who_asks(site: Site, protocol: str) -> None:
    for asker, asked in ((A1, A2), (A2, A1), (AB, A1), (A1, AB), (AB, B1), (B1, AB), (I1, I2), (AI, I2)):
        (shared,) = [
            (mine.address, other.address)
            for mine in site.tasks[asker].attachments
            for other in site.tasks[asked].attachments
            if mine.network_id == other.network_id
        ]
        (answer,) = site.ask(asker, shared[1], protocol=protocol)
        assert (answer.task, answer.peer) == (asked, str(shared[0]))


@pytest.mark.parametrize("asker", [A1, AB, AI])
def test_tasks_get_out_with_the_address_of_their_node(site: Site, asker: str) -> None:
    for protocol in PROTOCOLS:
        (answer,) = site.ask(asker, site.lab.client.address, HOST_PORT, protocol=protocol)
        assert (answer.task, answer.peer) == ("client", site.host_of(asker).address)


def test_one_that_binds_to_its_overlay_address_gets_out_too(site: Site) -> None:
    script = (
        "import socket, sys\n"
        "with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3, (sys.argv[3], 0)) as s:\n"
        "    print(s.makefile().readline())"
    )
    answer = site.python(A1, script, site.lab.client.address, str(HOST_PORT), str(A.subnet[11]))
    assert answer.split() == ["client", site.lab["core-01"].address]


def test_a_task_on_internal_networks_only_has_no_way_out(site: Site) -> None:
    names = site.run(I1, ["ip", "-o", "link"]).stdout
    assert "eth0" in names
    assert "eth1" not in names
    assert "default" not in site.run(I1, ["ip", "route"]).stdout
    for told in cannot(site, (I1, site.lab.client.address, HOST_PORT)):
        assert "unreachable" in told
    assert site.run("core-01", ["ip", "link", "show", "mgw-i1aaaaaa"], check=False).returncode != 0


def test_a_task_that_may_set_routes_gets_no_further(site: Site) -> None:
    """Through its node's routing to another network, out of an internal one, or to a published port."""
    tries = (
        (I1, INTERNAL, site.lab.client.address, HOST_PORT),
        (I1, INTERNAL, site.lab["core-01"].address, HOST_PORT),
        (I1, INTERNAL, A.subnet[11], PORT),
        (A1, A, B.subnet[11], PORT),
        (A1, A, B.subnet[13], PORT),
        (A1, A, site.lab.client.address, HOST_PORT),
    )
    back = [[str(item.subnet), "via", site.lab["core-01"].address] for item in (A, INTERNAL)]
    for route in back:  # whatever got out would be answered
        site.run("client", ["ip", "route", "add", *route])
    try:
        for task, own, address, port in tries:
            route = [f"{address}/32", "via", str(own.gateway)]
            site.run(task, ["ip", "route", "add", *route])
            try:
                cannot(site, (task, address, port))
            finally:
                site.run(task, ["ip", "route", "del", *route])
    finally:
        for route in back:
            site.run("client", ["ip", "route", "del", *route])


def test_tasks_of_different_networks_do_not_reach_each_other(site: Site) -> None:
    cannot(
        site,
        (A1, B.subnet[11], PORT),
        (A1, INTERNAL.subnet[12], PORT),
        (B1, A.subnet[11], PORT),
        (A1, "172.18.0.3", PORT),  # another one's way out
    )


@pytest.mark.parametrize("task", [A1, I1, AB])
def test_of_its_node_a_task_reaches_only_the_dns_server_of_its_networks(site: Site, task: str) -> None:
    node = site.tasks[task].node
    own = {item.network_id for item in site.tasks[task].attachments}
    refused: list[tuple[str, object, int]] = [] if task == I1 else [(task, "172.18.0.1", HOST_PORT)]
    foreign: list[tuple[str, object, int]] = []
    for item in site.networks:
        if item.id not in own:
            foreign.append((task, item.gateway, 53))
            continue
        refused.append((task, item.gateway, HOST_PORT))
        for protocol in PROTOCOLS:
            assert site.ask(task, item.gateway, 53, protocol=protocol)[0].task == f"dns-{node}"
    cannot(site, *foreign)
    assert all("refused" in told for told in cannot(site, *refused))


def test_the_name_server_is_the_gateway_of_the_first_network(site: Site) -> None:
    def nameserver(task: str) -> IPv4Address | None:
        again = site.attach(site.tasks[task].node, task, *TASKS[task][1])
        return again.nameserver

    assert nameserver(AB) == A.gateway
    assert nameserver(AI) == INTERNAL.gateway


def test_hosts_outside_do_not_get_into_an_overlay(site: Site) -> None:
    client, node = site.lab.client, site.lab["core-01"]
    client.run(["ip", "route", "add", str(A.subnet), "via", node.address])
    try:
        cannot(
            site,
            ("client", A.subnet[11], PORT),
            ("client", A.gateway, 53),
            ("client", A.gateway, HOST_PORT),
        )
    finally:
        client.run(["ip", "route", "del", str(A.subnet)])


_SNIFF = """
import select, socket, sys, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
print("ready", flush=True)
sys.stdin.readline()
while select.select([tap], [], [], 0)[0]:
    frame, where = tap.recvfrom(2048)
    if where[2] == socket.PACKET_OUTGOING:
        print(frame[6:12].hex(":"), frame[0:6].hex(":"))
"""


def _sent(site: Site, work: list[list[str]]) -> list[list[str]]:
    """[source, target] of the frames that leave core-01 through the tunnel of network A meanwhile."""
    sniffer = site.process("core-01", _SNIFF, f"mvx-{A.id[:8]}")
    assert sniffer.stdout is not None
    assert sniffer.stdout.readline() == "ready\n"
    for where, *command in work:
        site.run(where, command, check=False)
    output, _ = sniffer.communicate("\n", timeout=10)
    return [line.split() for line in output.splitlines()]


def test_nothing_of_a_nodes_gateway_leaves_through_the_tunnel(site: Site) -> None:
    ping = ["busybox", "ping", "-c", "1", "-W", "1"]
    assert _sent(site, [["core-01", *ping, str(A.subnet[12])]]) == []
    assert site.run("core-01", [*ping, str(A.subnet[11])]).returncode == 0  # of its own tasks it does reach
    frames = _sent(site, [[A1, *ping, str(A.subnet[12])]])
    assert {source for source, _ in frames} == {"02:42:0a:00:01:0b"}


def test_nothing_is_flooded(site: Site) -> None:
    ping = ["busybox", "ping", "-c", "1", "-W", "1"]
    unknown, everybody = str(A.subnet[99]), str(A.subnet.broadcast_address)
    site.run(A1, ["ip", "neigh", "replace", str(A.subnet[98]), "lladdr", "02:42:0a:00:01:62", "dev", "eth0"])
    work = [
        [A1, *ping, unknown],
        [A1, *ping, str(A.subnet[98])],
        [A1, *ping, everybody],
        [A1, *ping, "224.0.0.1"],
    ]
    assert _sent(site, work) == []


def test_the_mtu_is_that_of_the_network(site: Site) -> None:
    script = (
        "import socket, sys\n"
        "s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "s.setsockopt(0, 10, 2)  # IP_MTU_DISCOVER: do\n"
        "s.settimeout(3)\n"
        "s.sendto(b'x' * int(sys.argv[2]), (sys.argv[1], 8000))\n"
        "print(s.recv(100).decode())\n"
    )
    assert site.python(S1, script, str(SMALL.subnet[12]), str(1400 - 28)).startswith(S2)
    with pytest.raises(subprocess.CalledProcessError) as raised:
        site.python(S1, script, str(SMALL.subnet[12]), str(1401 - 28))
    assert "Message too long" in raised.value.stderr
    assert site.python(A1, script, str(A.subnet[12]), str(1450 - 28)).startswith(A2)


def test_much_data_passes_between_nodes(site: Site) -> None:
    script = (
        "import socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], 8000), 3)\n"
        "f = s.makefile('rb')\n"
        "f.readline()\n"
        "data = bytes(range(256)) * 8192\n"
        "threading.Thread(target=s.sendall, args=(data,)).start()\n"
        "print(f.read(len(data)) == data)\n"
    )
    for asker, address in ((A1, A.subnet[12]), (S1, SMALL.subnet[12])):
        started = time.monotonic()
        assert site.python(asker, script, str(address)) == "True\n"
        assert time.monotonic() - started < 5


def test_a_living_task_is_led_to_other_networks(site: Site) -> None:
    """What stays is not touched; what it leaves, it reaches no more; the kernel is as planned all the while."""
    task = "c1aaaaaaaaaaaaaa"
    driver = site.drivers["core-01"]
    site.start_task("core-01", task)

    def lead(*addresses: IPv4Address) -> AttachedSandbox | None:
        attachments = tuple(
            Attachment(item.id, address)
            for address in addresses
            for item in site.networks
            if address in item.subnet
        )
        attached: AttachedSandbox | None = driver.call("reattach", Sandbox(task, attachments))
        site.tasks[task] = replace(site.tasks[task], attachments=attachments)
        site.spread()
        assert driver.call("verify") == ()
        return attached

    def interfaces() -> dict[str, str]:
        shown = site.run(task, ["ip", "-br", "address"]).stdout.splitlines()
        return {line.split("@")[0]: line.split()[2] for line in shown if "@" in line}

    on_a, on_b, on_internal = A.subnet[41], B.subnet[41], INTERNAL.subnet[41]
    site.spread()
    assert site.ask(task, site.lab.client.address, HOST_PORT)
    cannot(site, (task, A.subnet[12], PORT))
    attached = lead(on_a)
    assert attached is not None
    assert attached.nameserver == A.gateway
    assert lead(on_a) is None
    assert site.ask(task, A.subnet[12])[0].task == A2
    assert site.ask(A2, on_a)[0].task == task
    lead(on_a, on_b)
    assert sorted(interfaces()) == ["eth0", "eth1", "eth2"]
    assert site.ask(task, B.subnet[11])[0].task == B1
    site.restart("core-01")
    assert driver is not site.drivers["core-01"]
    driver = site.drivers["core-01"]
    lead(on_internal)
    assert set(interfaces().values()) == {f"{on_internal}/24"}, "an internal network has no way out"
    cannot(site, (task, A.subnet[12], PORT), (task, site.lab.client.address, HOST_PORT))
    assert site.ask(task, INTERNAL.subnet[12])[0].task == I2
    lead()
    assert site.ask(task, site.lab.client.address, HOST_PORT)
    assert len(interfaces()) == 1
    site.remove(task)
    assert task[:8] not in site.run("core-01", ["ip", "link"]).stdout
    site.spread()
