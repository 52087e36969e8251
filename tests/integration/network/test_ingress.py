"""Published ports on three nodes: who answers, and whom the tasks see."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from miniworker.network.api import Attachment, HostPort, Sandbox
from support.cluster import eventually
from support.data_plane_driver import RemoteError
from support.hosts import Lab
from support.ingress_site import NETWORK, SUBNET, Site, ask, published

pytestmark = pytest.mark.root

HOSTS = ("core-01", "core-02", "core-03")
PORT, TARGET = 4567, 8000

TASKS = {
    "task1aaaaaaaaaaaaaaaaaaaa": ("core-01", SUBNET[10]),
    "task2aaaaaaaaaaaaaaaaaaaa": ("core-02", SUBNET[11]),
    "task3aaaaaaaaaaaaaaaaaaaa": ("core-02", SUBNET[12]),
}
BACKENDS = {task: address for task, (_, address) in TASKS.items()}
TABLE = (
    published(PORT, TARGET, BACKENDS),
    published(PORT, TARGET, BACKENDS, protocol="udp"),
    published(4999, TARGET, {}),
    published(4999, TARGET, {}, protocol="udp"),
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Three nodes; tasks on the first two, so that the third has none."""
    with Lab(f"n{os.getpid() % 10000}", HOSTS) as lab:
        site = Site(lab)
        try:
            for number, name in enumerate(HOSTS, 1):
                site.add_node(name, number)
            site.spread_fabric()
            for task, (name, address) in TASKS.items():
                site.start_task(name, task, address, port=TARGET)
            site.spread_fabric()
            for node in site.nodes.values():
                assert not node.apply(*TABLE).problems
            yield site
        finally:
            site.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("name", HOSTS)
def test_every_node_answers_from_every_task_and_the_tasks_see_the_client(
    site: Site, name: str, protocol: str
) -> None:
    answers = ask(site.lab.client, site.lab[name].address, PORT, protocol=protocol, count=6)
    assert Counter(answer.task for answer in answers) == dict.fromkeys(TASKS, 2)
    assert {answer.peer for answer in answers} == {site.lab.client.address}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("client", HOSTS)
def test_a_client_that_is_a_node_is_seen_too(site: Site, client: str, protocol: str) -> None:
    for name in HOSTS:
        if name != client:
            answers = ask(site.lab[client], site.lab[name].address, PORT, protocol=protocol, count=3)
            assert {answer.task for answer in answers} == set(TASKS)
            assert {answer.peer for answer in answers} == {site.lab[client].address}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("name", HOSTS)
def test_a_node_reaches_the_port_on_itself(site: Site, name: str, protocol: str) -> None:
    host = site.lab[name]
    for address in ("127.0.0.1", "localhost", host.address):
        answers = ask(host, address, PORT, protocol=protocol, count=3)
        assert {answer.task for answer in answers} == set(TASKS)


@pytest.mark.parametrize("name", HOSTS)
def test_a_service_without_tasks_refuses_at_once(site: Site, name: str) -> None:
    host = site.lab[name]
    for asker, address in ((site.lab.client, host.address), (host, "127.0.0.1"), (host, host.address)):
        for protocol in ("tcp", "udp"):
            started = time.monotonic()
            with pytest.raises(subprocess.CalledProcessError) as raised:
                ask(asker, address, 4999, protocol=protocol)
            assert "ConnectionRefusedError" in raised.value.stderr
            assert time.monotonic() - started < 2.5


def test_tasks_cannot_be_reached_from_outside_past_the_published_ports(site: Site) -> None:
    client, node = site.lab.client, site.lab["core-01"]
    client.run(["ip", "route", "add", "10.0.0.0/24", "via", node.address])
    try:
        for address in BACKENDS.values():
            with pytest.raises(subprocess.CalledProcessError):
                ask(client, str(address), TARGET)
    finally:
        client.run(["ip", "route", "del", "10.0.0.0/24"])


def test_the_kernel_path_serves_while_mini_ingress_is_replaced(site: Site) -> None:
    node = site.nodes["core-03"]
    node.kill_ingress()
    assert {answer.task for answer in ask(site.lab.client, node.host.address, PORT, count=3)} == set(TASKS)
    node.start_ingress()
    assert not node.apply(*TABLE).problems
    assert {answer.task for answer in ask(site.lab.client, node.host.address, PORT, count=3)} == set(TASKS)
    assert {answer.task for answer in ask(node.host, "127.0.0.1", PORT, count=3)} == set(TASKS)


def test_a_port_that_a_process_of_the_host_has_is_named_and_left_alone(site: Site) -> None:
    node = site.nodes["core-03"]
    holder = node.host.start(["busybox", "nc", "-l", "-p", "4600"], log="holder.log")
    try:
        eventually(lambda: ":4600" in node.host.run(["ss", "-ltn"]).stdout, "the holder of port 4600 listens")
        (problem,) = node.apply(*TABLE, published(4600, TARGET, BACKENDS)).problems
        assert problem.published_port == 4600
        assert "in use on this node by" in problem.message
    finally:
        holder.kill()
        holder.wait()
    assert "4600" not in node.host.run(["nft", "list", "table", "inet", "mini_ingress"]).stdout
    assert not node.apply(*TABLE).problems


def test_a_removed_task_gets_no_more_requests(site: Site) -> None:
    left = dict(list(BACKENDS.items())[:1])
    node = site.nodes["core-01"]
    try:
        node.apply(published(PORT, TARGET, left), published(PORT, TARGET, left, protocol="udp"))
        for protocol in ("tcp", "udp"):
            answers = ask(site.lab.client, node.host.address, PORT, protocol=protocol, count=4)
            assert {answer.task for answer in answers} == set(left)
    finally:
        node.apply(*TABLE)


def test_a_client_on_the_node_is_turned_away_when_the_only_task_refuses(site: Site) -> None:
    node = site.nodes["core-01"]
    nobody = {"gone": BACKENDS["task1aaaaaaaaaaaaaaaaaaaa"]}
    node.apply(published(4700, 9, nobody))
    with pytest.raises(subprocess.CalledProcessError):
        ask(node.host, "127.0.0.1", 4700)
    node.apply(*TABLE)


def test_a_node_that_joins_later_is_answered_through_without_a_change_in_any_sandbox(site: Site) -> None:
    third = site.nodes.pop("core-03")
    site.spread_fabric()
    netns = site.nodes["core-02"].netns_dir / "task2aaaaaaaaaaaaaaaaaaaa"
    show = ["nsenter", f"--net={netns}", "sh", "-c", "ip rule; ip route show table all; nft list ruleset"]
    before = site.lab["core-02"].run(show).stdout
    site.nodes["core-03"] = third
    site.spread_fabric()
    answers = ask(site.lab.client, third.host.address, PORT, count=3)
    assert {answer.task for answer in answers} == set(TASKS)
    assert site.lab["core-02"].run(show).stdout == before


_SAME_SOURCE_PORT = """
import socket, sys
kind, port, *nodes = sys.argv[1:]
asked = []
for node in nodes:
    asker = socket.socket(type=getattr(socket, kind))
    asker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    asker.bind(("0.0.0.0", asked[0].getsockname()[1] if asked else 0))
    asker.settimeout(3)
    asker.connect((node, int(port)))
    asked.append(asker)
for _ in range(3):
    for asker in asked:
        asker.send(b"?")
        print(asker.recv(2048).decode().split()[0])
"""


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_one_source_port_through_several_nodes_to_one_task_makes_several_connections(
    site: Site, kind: str
) -> None:
    task = {"task2aaaaaaaaaaaaaaaaaaaa": BACKENDS["task2aaaaaaaaaaaaaaaaaaaa"]}
    only = [published(4800, TARGET, task, protocol=protocol) for protocol in ("tcp", "udp")]
    for node in site.nodes.values():
        assert not node.apply(*TABLE, *only).problems
    try:
        nodes = [site.lab[name].address for name in HOSTS]
        command = [sys.executable, "-I", "-c", _SAME_SOURCE_PORT, kind, "4800", *nodes]
        assert len(site.lab.client.run(command).stdout.splitlines()) == 9
    finally:
        for node in site.nodes.values():
            node.apply(*TABLE)


def test_a_new_agent_finds_everything_in_place(site: Site) -> None:
    node = site.nodes["core-02"]
    before = _kernel(site, "core-02")
    node.driver.close()
    site.nodes["core-02"].driver = type(node.driver)(node.host, node.netns_dir)
    node.driver.call("adopt", frozenset(node.tasks))
    node.driver.call("set_fabric", site.fabric(node))
    assert _kernel(site, "core-02") == before
    answers = ask(site.lab.client, node.host.address, PORT, count=3)
    assert {answer.task for answer in answers} == set(TASKS)


def test_host_ports_lead_to_their_task_and_are_refused_when_taken(site: Site) -> None:
    node, task = site.nodes["core-03"], "hostportaaaaaaaaaaaaaaaaa"
    wanted = (HostPort("tcp", 8080, TARGET), HostPort("udp", 8080, TARGET), HostPort("tcp", 0, TARGET))
    attached = site.start_task("core-03", task, SUBNET[20], port=TARGET, host_ports=wanted)
    chosen = attached.host_ports[2].published_port
    assert chosen >= 32768
    for protocol, port in (("tcp", 8080), ("udp", 8080), ("tcp", chosen)):
        (answer,) = ask(site.lab.client, node.host.address, port, protocol=protocol)
        assert (answer.task, answer.peer) == (task, site.lab.client.address)
    for address in ("127.0.0.1", node.host.address):
        assert ask(node.host, address, 8080)[0].task == task
    with pytest.raises(RemoteError, match=f"8080/tcp is in use on this node by task {task}"):
        node.driver.call("attach", Sandbox("other1aaaaaaaaaaaaaaaaaaa", (), (HostPort("tcp", 8080, 80),)))
    with pytest.raises(RemoteError, match="4567/tcp is in use on this node by mini-ingress"):
        node.driver.call("attach", Sandbox("other1aaaaaaaaaaaaaaaaaaa", (), (HostPort("tcp", PORT, 80),)))
    site.stop_server("core-03", task)
    del node.tasks[task]
    node.driver.call("detach", task)
    with pytest.raises(subprocess.CalledProcessError):
        ask(site.lab.client, node.host.address, 8080)


def test_many_tasks_come_and_go_at_once(site: Site) -> None:
    """With the fabric set meanwhile, and a host port that two of them want."""
    node = site.nodes["core-03"]
    tasks = [f"{number:02}manyaaaaaaaaaaaaaaaaaaa" for number in range(24)]
    boxes = [
        Sandbox(task, (Attachment(NETWORK, SUBNET[100 + number]),), (HostPort("tcp", 0, TARGET),))
        for number, task in enumerate(tasks)
    ]
    fabric = ("set_fabric", site.fabric(node))
    node.driver.call(*fabric)
    # The kernel takes up to a second to say that a bridge without ports has no carrier.
    eventually(lambda: "linkdown" in _routes(site, "core-03"), "the last task's interface is forgotten")
    before = _kernel(site, "core-03")
    attached = node.driver.call_all(*(("attach", box) for box in boxes[:12]), fabric)[:12]
    attached += node.driver.call_all(*(("attach", box) for box in boxes[12:]), fabric)[:12]
    assert len({item.host_ports[0].published_port for item in attached}) == len(tasks)
    for task, item in zip(tasks, attached, strict=True):
        site.serve(node, task, item.netns, port=TARGET)
    try:
        for task, item in zip(tasks, attached, strict=True):
            (answer,) = ask(site.lab.client, node.host.address, item.host_ports[0].published_port)
            assert answer.task == task
        port = attached[0].host_ports[0].published_port
        rivals = [Sandbox(f"rival{number}", (), (HostPort("tcp", port, 80),)) for number in range(2)]
        with pytest.raises(RemoteError, match=f"{port}/tcp is in use on this node by task {tasks[0]}"):
            node.driver.call_all(*(("attach", rival) for rival in rivals))
    finally:
        for task in tasks:
            site.stop_server("core-03", task)
        node.driver.call_all(*(("detach", task) for task in tasks))
    node.driver.call(*fabric)
    eventually(lambda: _kernel(site, "core-03") == before, "nothing is left")


def test_clear_leaves_the_kernel_as_it_was() -> None:
    with Lab(f"c{os.getpid() % 10000}", ["core-01"]) as lab:
        site = Site(lab)
        lab["core-01"].run(["sysctl", "-w", "net.ipv4.ip_forward=0"])
        before = _kernel(site, "core-01")
        node = site.add_node("core-01", 1)
        try:
            site.spread_fabric()
            task = "task1aaaaaaaaaaaaaaaaaaaa"
            site.start_task("core-01", task, SUBNET[10], port=80, host_ports=(HostPort("tcp", 8080, 80),))
            site.spread_fabric()
            node.apply(published(PORT, 80, {task: SUBNET[10]}))
            assert _kernel(site, "core-01") != before
            node.driver.call("clear")
            assert _kernel(site, "core-01") == before
            assert list(node.netns_dir.iterdir()) == []
        finally:
            site.close()


def _routes(site: Site, name: str) -> str:
    return site.lab[name].run(["ip", "route", "show", "dev", "mini_gwbridge"]).stdout


def _kernel(site: Site, name: str) -> list[str]:
    """Links, addresses, entries and rules, without what counts or ages."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "-o", "-4", "address"],
        ["ip", "route"],
        ["nft", "list", "ruleset"],
        ["ip", "neighbor", "show", "nud", "permanent"],
        ["sysctl", "net.ipv4.ip_forward"],
    )
    return sorted(line for item in commands for line in site.lab[name].run(item).stdout.splitlines())
