"""What the tracer says of a packet is what becomes of it: the same ports asked and traced."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from miniworker.network.api import HostPort, Packet, Traced
from support.cluster import eventually
from support.hosts import Lab
from support.ingress_site import ASK, SUBNET, Site, published

pytestmark = pytest.mark.root

WEB, EMPTY, STICKY, ELSEWHERE, UDP, USERSPACE, HOST = 8080, 8081, 8082, 8083, 8084, 8085, 9090
TASKS = {"t1aaaaaaaaaaaaaa": "core-01", "t2aaaaaaaaaaaaaa": "core-02", "t3aaaaaaaaaaaaaa": "core-02"}
ADDRESSES = {task: SUBNET[10 + number] for number, task in enumerate(TASKS)}
HERE, THERE = IPv4Address("10.77.0.11"), IPv4Address("10.77.0.12")
CLIENT = IPv4Address("10.77.0.99")

ASK_FROM = """
import socket, sys
source, target, port = sys.argv[1:]
with socket.create_connection((target, int(port)), timeout=3, source_address=(source, 0)) as asker:
    print(asker.makefile().readline().strip())
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab(f"t{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site = Site(lab)
        try:
            for number, name in enumerate(("core-01", "core-02"), 1):
                site.add_node(name, number)
            site.spread_fabric()
            for task, name in TASKS.items():
                ports = (HostPort("tcp", HOST, 80),) if task == "t1aaaaaaaaaaaaaa" else ()
                site.start_task(name, task, ADDRESSES[task], port=80, host_ports=ports)
            site.spread_fabric()
            for node in site.nodes.values():
                node.apply(
                    published(WEB, 80, ADDRESSES),
                    published(EMPTY, 80, {}),
                    published(STICKY, 80, ADDRESSES, sticky=True),
                    published(ELSEWHERE, 80, ADDRESSES, host_ip="10.77.0.77"),
                    published(UDP, 80, ADDRESSES, protocol="udp"),
                    published(USERSPACE, 80, ADDRESSES, proxy_protocol=2),
                )
            yield site
        finally:
            site.close()


def trace(
    site: Site,
    port: int,
    *,
    client: IPv4Address = CLIENT,
    destination: IPv4Address = HERE,
    protocol: str = "tcp",
) -> Traced:
    packet = Packet(client, destination, protocol, port)
    traced: Traced = site.nodes["core-01"].driver.call("trace", packet)
    return traced


def ask(site: Site, port: int, *, protocol: str = "tcp") -> str:
    """The task that answered the client. Raises CalledProcessError."""
    command = ["python3", "-I", "-c", ASK, protocol, str(HERE), str(port), "1"]
    return site.lab.client.run(command).stdout.split()[0]


@pytest.mark.parametrize(("port", "protocol"), [(WEB, "tcp"), (UDP, "udp")])
def test_a_port_leads_to_each_of_its_tasks_in_turn(site: Site, port: int, protocol: str) -> None:
    traced = trace(site, port, protocol=protocol)
    assert (traced.verdict, traced.choice) == ("led", "in turn")
    assert traced.rules[0] == f"map served: {protocol} . {port} -> {protocol}-{port}"
    assert {hop.task_id for hop in traced.targets} == set(TASKS)
    assert {ask(site, port, protocol=protocol) for _ in range(3)} == set(TASKS)
    assert traced.back_to == SUBNET[2]


def test_a_task_is_here_or_behind_a_tunnel(site: Site) -> None:
    hops = {hop.task_id: hop for hop in trace(site, WEB).targets}
    here, there = hops["t1aaaaaaaaaaaaaa"], hops["t2aaaaaaaaaaaaaa"]
    assert (here.device, here.vtep, here.node_id) == ("mve-t1aaaaaa", None, "core-01")
    assert (there.device, there.vtep, there.node_id) == ("mvx-ingress0", THERE, "core-02")
    assert not any(hop.problem for hop in hops.values())
    back = site.nodes["core-02"].driver.call("reach", SUBNET[2])
    assert (back.device, back.vtep, back.problem) == ("mvx-ingress0", HERE, "")


def test_of_a_sticky_port_the_very_task_is_told_before_and_after(site: Site) -> None:
    """The kernel's hash of a client's address, and then the set of the clients that a task has had."""
    before = trace(site, STICKY)
    assert (before.verdict, before.choice) == ("led", "by the client's address (sticky)")
    (hop,) = before.targets
    assert ask(site, STICKY) == hop.task_id
    after = trace(site, STICKY)
    assert after.choice == "it has had this client before (sticky)"
    assert [item.task_id for item in after.targets] == [hop.task_id]


def test_the_hash_is_the_kernels_for_other_clients_too(site: Site) -> None:
    told, answered = [], []
    for number in range(101, 113):
        address = f"10.77.0.{number}"
        site.lab.client.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        (hop,) = trace(site, STICKY, client=IPv4Address(address)).targets
        told.append(hop.task_id)
        done = site.lab.client.run(["python3", "-I", "-c", ASK_FROM, address, str(HERE), str(STICKY)])
        answered.append(done.stdout.split()[0])
    assert told == answered
    assert len(set(told)) > 1


def test_what_is_refused_is_told_as_refused(site: Site) -> None:
    assert trace(site, EMPTY).verdict == "refused"
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero") as raised:
        ask(site, EMPTY)
    assert "refused" in str(raised.value.stderr)


def test_a_port_of_another_address_is_closed_on_this_one(site: Site) -> None:
    here = trace(site, ELSEWHERE)
    assert here.verdict == "closed"
    assert here.rules, "it says which rule it is that concerns another address"
    assert trace(site, ELSEWHERE, destination=IPv4Address("10.77.0.77")).verdict == "led"


def test_what_nobody_publishes_is_closed(site: Site) -> None:
    for port, protocol in ((WEB, "udp"), (1, "tcp")):
        traced = trace(site, port, protocol=protocol)
        assert (traced.verdict, traced.rules) == ("closed", ())


def test_the_userspace_path_is_told_with_its_process(site: Site) -> None:
    assert trace(site, USERSPACE).listener.startswith("mini-ingress (pid ")
    of_the_node = trace(site, WEB, client=HERE)
    assert (of_the_node.verdict, of_the_node.listener.split()[0]) == ("listener", "mini-ingress")


def test_a_host_port_leads_to_its_one_task(site: Site) -> None:
    for client in (CLIENT, HERE):
        traced = trace(site, HOST, client=client)
        (hop,) = traced.targets
        assert (traced.verdict, hop.task_id, hop.port) == ("led", "t1aaaaaaaaaaaaaa", 80)
        assert (hop.device, hop.problem, traced.back_to) == ("mve-t1aaaaaa", "", None)
    assert ask(site, HOST) == "t1aaaaaaaaaaaaaa"


def test_a_firewall_of_somebody_else_is_named(site: Site) -> None:
    host = site.lab["core-01"]
    rules = "add table ip other; add chain ip other dropping { type filter hook forward priority 0; policy drop; }"
    host.run(["nft", rules])
    try:
        eventually(
            lambda: trace(site, WEB).dropping == ("ip other dropping",), "the chain that drops is named"
        )
    finally:
        host.run(["nft", "delete table ip other"])
    eventually(lambda: trace(site, WEB).dropping == (), "it is gone")


def test_a_missing_forwarding_entry_is_named(site: Site) -> None:
    host = site.lab["core-01"]
    mac = "02:42:" + ":".join(f"{byte:02x}" for byte in ADDRESSES["t2aaaaaaaaaaaaaa"].packed)
    host.run(["bridge", "fdb", "del", mac, "dev", "mvx-ingress0", "dst", str(THERE), "self"])
    host.run(["bridge", "fdb", "del", mac, "dev", "mvx-ingress0", "master"])
    hops = {hop.task_id: hop for hop in trace(site, WEB).targets}
    assert hops["t2aaaaaaaaaaaaaa"].problem == f"no forwarding entry leads to {mac}"
    assert not hops["t3aaaaaaaaaaaaaa"].problem
    site.nodes["core-01"].driver.call("repair")
    assert not any(hop.problem for hop in trace(site, WEB).targets)
