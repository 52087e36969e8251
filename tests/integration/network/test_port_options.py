"""What can be asked of a published port, with real traffic: on the kernel path and on the userspace path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.network.api import Attachment, HostPort, Sandbox
from support.cluster import eventually
from support.data_plane_driver import RemoteError
from support.hosts import Host, Lab
from support.ingress_site import NETWORK, SUBNET, Node, Site, ask, published

pytestmark = pytest.mark.root

HOSTS = ("core-01", "core-02", "core-03")
PORT, TARGET = 4567, 8000

TASKS = {
    "task1aaaaaaaaaaaaaaaaaaaa": ("core-01", SUBNET[10]),
    "task2aaaaaaaaaaaaaaaaaaaa": ("core-01", SUBNET[11]),
    "task3aaaaaaaaaaaaaaaaaaaa": ("core-02", SUBNET[12]),
}
BACKENDS = {task: address for task, (_, address) in TASKS.items()}
NODES = {task: node for task, (node, _) in TASKS.items()}

IPV6 = {"client": "fd77::99", "core-01": "fd77::11"}

WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""What is started on a host is the child of a process that entered it; so it ends when that one is killed."""

_TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as talker:
    answers = talker.makefile()
    print(answers.readline().strip(), flush=True)
    for line in sys.stdin:
        talker.sendall(line.encode())
        print(answers.readline().strip(), flush=True)
"""
"""One connection: each line of its input goes there and comes back."""

_PROXIED = """
import socket, struct, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        head = client.recv(16, socket.MSG_WAITALL)
        size = struct.unpack("!H", head[14:])[0]
        body = client.recv(size, socket.MSG_WAITALL)
        family, length = (socket.AF_INET, 4) if size == 12 else (socket.AF_INET6, 16)
        ends = [socket.inet_ntop(family, body[at : at + length]) for at in (0, length)]
        ports = struct.unpack("!HH", body[2 * length :])
        text = client.recv(100).decode()
        client.sendall(f"{head[:13]!r} {ends[0]} {ports[0]} {ends[1]} {ports[1]} {text}".encode())
"""
"""Says what the header told it, and what came after."""

_ASK_PROXIED = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as asker:
    asker.sendall(b"hello")
    print(asker.getsockname()[1], asker.recv(1000).decode())
"""

_SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Three nodes; two tasks on the first, one on the second."""
    with Lab(f"o{os.getpid() % 10000}", HOSTS) as lab:
        site = Site(lab)
        try:
            for number, name in enumerate(HOSTS, 1):
                site.add_node(name, number)
            for name, own in IPV6.items():
                lab[name].run(["ip", "address", "add", f"{own}/64", "dev", "eth0", "nodad"])
            site.spread_fabric()
            for task, (name, address) in TASKS.items():
                site.start_task(name, task, address, port=TARGET)
            site.spread_fabric()
            yield site
        finally:
            site.close()


@contextmanager
def userspace(node: Node) -> Iterator[None]:
    """While this node's mini-ingress serves everybody in userspace."""
    node.restart_ingress("--ingress-path=userspace")
    try:
        yield
    finally:
        node.restart_ingress()


def tasks_asked(
    host: Host, address: str, port: int = PORT, *, count: int = 6, protocol: str = "tcp"
) -> list[str]:
    return [answer.task for answer in ask(host, address, port, count=count, protocol=protocol)]


def refused(host: Host, address: str, port: int = PORT, *, protocol: str = "tcp") -> bool:
    try:
        ask(host, address, port, protocol=protocol)
    except subprocess.CalledProcessError as error:
        return "ConnectionRefusedError" in error.stderr or "ConnectionResetError" in error.stderr
    return False


class Talk:
    """A connection that stays open."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        command = host.command([sys.executable, "-I", "-c", _TALK, address, str(port)])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.task = self._line().partition(" ")[0]

    def says(self, text: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


# --- host_ip ---


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("path", ["kernel", "userspace"])
def test_a_port_of_one_address_answers_there_only(site: Site, path: str, protocol: str) -> None:
    node, own = site.nodes["core-01"], "10.77.0.21"
    node.host.run(["ip", "address", "add", f"{own}/24", "dev", "eth0"])
    port = published(PORT, TARGET, BACKENDS, host_ip=own, protocol=protocol)
    try:
        if path == "userspace":
            with userspace(node):
                assert not node.apply(port).problems
                _answers_at(site, own, protocol)
        else:
            assert not node.apply(port).problems
            _answers_at(site, own, protocol)
    finally:
        node.apply()
        node.host.run(["ip", "address", "del", f"{own}/24", "dev", "eth0"])


def _answers_at(site: Site, own: str, protocol: str) -> None:
    node = site.nodes["core-01"]
    for asker in (site.lab.client, node.host):
        assert set(tasks_asked(asker, own, protocol=protocol)) == set(TASKS)
        assert refused(asker, node.host.address, protocol=protocol)
    assert refused(node.host, "127.0.0.1", protocol=protocol)


def test_a_port_of_one_address_without_tasks_leaves_the_other_addresses_alone(site: Site) -> None:
    node, own = site.nodes["core-03"], "10.77.0.23"
    node.host.run(["ip", "address", "add", f"{own}/24", "dev", "eth0"])
    assert not node.apply(published(PORT, TARGET, {}, host_ip=own)).problems
    # What else the host may run on that number, at its other address.
    server = [*WITH_PARENT, sys.executable, "-m", "http.server", "--bind", node.host.address, str(PORT)]
    listens = f"{node.host.address}:{PORT}"
    holder = node.host.start(server, log="holder.log")
    try:
        eventually(lambda: listens in node.host.run(["ss", "-ltn"]).stdout, "it listens")
        assert refused(site.lab.client, own)
        site.lab.client.run(["curl", "-sf", "-o", "/dev/null", f"http://{node.host.address}:{PORT}/"])
    finally:
        holder.kill()
        holder.wait()
        eventually(lambda: listens not in node.host.run(["ss", "-ltn"]).stdout, "it has ended")
        node.apply()
        node.host.run(["ip", "address", "del", f"{own}/24", "dev", "eth0"])


def test_an_address_that_the_node_gets_later_is_served_then(site: Site) -> None:
    node, floating = site.nodes["core-02"], "10.77.0.50"
    assert not node.apply(published(PORT, TARGET, BACKENDS, host_ip=floating)).problems
    node.host.run(["ip", "address", "add", f"{floating}/24", "dev", "eth0"])
    try:
        assert set(tasks_asked(site.lab.client, floating)) == set(TASKS)
        assert set(tasks_asked(node.host, floating)) == set(TASKS)
    finally:
        node.host.run(["ip", "address", "del", f"{floating}/24", "dev", "eth0"])
        node.apply()


def test_a_host_mode_port_of_one_address(site: Site) -> None:
    node, task, own = site.nodes["core-03"], "hostportaaaaaaaaaaaaaaaaa", "10.77.0.23"
    node.host.run(["ip", "address", "add", f"{own}/24", "dev", "eth0"])
    wanted = HostPort("tcp", 8080, TARGET, IPv4Address(own))
    site.start_task("core-03", task, SUBNET[20], port=TARGET, host_ports=(wanted,))
    try:
        for asker in (site.lab.client, node.host):
            assert tasks_asked(asker, own, 8080, count=1) == [task]
            assert refused(asker, node.host.address, 8080)
        with pytest.raises(RemoteError, match=f"8080/tcp is in use on this node by task {task}"):
            node.driver.call("attach", Sandbox("other1aaaaaaaaaaaaaaaaaaa", (), (wanted,)))
        again = node.driver.call("attach", Sandbox(task, (Attachment(NETWORK, SUBNET[20]),), (wanted,)))
        assert again.host_ports == (wanted,)
    finally:
        site.stop_server("core-03", task)
        del node.tasks[task]
        node.driver.call("detach", task)
        node.host.run(["ip", "address", "del", f"{own}/24", "dev", "eth0"])


# --- locality ---


@pytest.mark.parametrize("path", ["kernel", "userspace"])
def test_a_nodes_own_tasks_are_preferred_while_there_are_any(site: Site, path: str) -> None:
    prefer = published(PORT, TARGET, BACKENDS, nodes=NODES, locality=pb.PORT_LOCALITY_PREFER)
    for name, node in site.nodes.items():
        node.apply(prefer)
        asker, address = _asker(site, node, path)
        own = {task for task, where in NODES.items() if where == name}
        assert set(tasks_asked(asker, address)) == (own or set(TASKS))
    left = {task: address for task, address in BACKENDS.items() if NODES[task] != "core-01"}
    first = site.nodes["core-01"]
    first.apply(published(PORT, TARGET, left, nodes=NODES, locality=pb.PORT_LOCALITY_PREFER))
    assert set(tasks_asked(*_asker(site, first, path))) == set(left)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("path", ["kernel", "userspace"])
def test_only_a_nodes_own_tasks_answer_and_a_node_without_any_refuses(
    site: Site, path: str, protocol: str
) -> None:
    only = published(PORT, TARGET, BACKENDS, nodes=NODES, locality=pb.PORT_LOCALITY_ONLY, protocol=protocol)
    for name, node in site.nodes.items():
        node.apply(only)
        asker, address = _asker(site, node, path)
        if own := {task for task, where in NODES.items() if where == name}:
            assert set(tasks_asked(asker, address, protocol=protocol)) == own
        else:
            assert refused(asker, address, protocol=protocol)


def _asker(site: Site, node: Node, path: str) -> tuple[Host, str]:
    """Who asks, and where, so that it goes this path."""
    return (site.lab.client, node.host.address) if path == "kernel" else (node.host, "127.0.0.1")


# --- sticky ---


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("path", ["kernel", "userspace"])
def test_a_client_stays_with_its_task_while_it_serves_and_moves_when_it_goes(
    site: Site, path: str, protocol: str
) -> None:
    node = site.nodes["core-01"]
    asker, address = _asker(site, node, path)

    def task_of_client(backends: dict[str, IPv4Address]) -> str:
        node.apply(published(PORT, TARGET, backends, sticky=True, protocol=protocol))
        (task,) = set(tasks_asked(asker, address, protocol=protocol))
        return task

    for first in TASKS:  # wherever it was first, the other two come later
        node.apply()
        assert task_of_client({first: BACKENDS[first]}) == first
        assert task_of_client(BACKENDS) == first
        others = {task: item for task, item in BACKENDS.items() if task != first}
        moved = task_of_client(others)
        assert moved in others
        assert task_of_client(BACKENDS) == moved


def test_a_client_finds_its_task_through_every_node_and_after_mini_ingress_was_killed(site: Site) -> None:
    sticky = published(PORT, TARGET, BACKENDS, sticky=True)
    for node in site.nodes.values():
        node.apply()
        node.apply(sticky)
    found = {task for node in site.nodes.values() for task in tasks_asked(site.lab.client, node.host.address)}
    assert len(found) == 1
    node = site.nodes["core-01"]
    # It is remembered, not computed: with one task alone it has learned another than the hash says.
    other = next(task for task in TASKS if task not in found)
    node.apply()
    node.apply(published(PORT, TARGET, {other: BACKENDS[other]}, sticky=True))
    assert set(tasks_asked(site.lab.client, node.host.address)) == {other}
    node.restart_ingress()
    node.apply(sticky)
    assert set(tasks_asked(site.lab.client, node.host.address)) == {other}


def test_rules_that_somebody_flushed_are_back_with_the_next_table(site: Site) -> None:
    node = site.nodes["core-02"]
    node.apply(published(PORT, TARGET, BACKENDS, sticky=True))
    node.host.run(["nft", "delete", "table", "inet", "mini_ingress"])
    assert not node.apply(published(PORT, TARGET, BACKENDS)).problems
    assert set(tasks_asked(site.lab.client, node.host.address)) == set(TASKS)


# --- proxy_protocol ---


def test_a_server_behind_the_proxy_protocol_learns_the_clients_own_address(site: Site) -> None:
    name, task = "core-01", "proxiedaaaaaaaaaaaaaaaaaa"
    site.start_task(name, task, SUBNET[30], port=TARGET)
    site.spread_fabric()
    netns = site.nodes[name].netns_dir / task
    server = [*WITH_PARENT, "nsenter", f"--net={netns}", sys.executable, "-I", "-c", _PROXIED, "9000"]
    process = site.lab[name].start(server, log="proxied.log")
    eventually(lambda: "ready" in site.lab[name].log("proxied.log"), "the proxied server listens")
    port = published(PORT, 9000, {task: SUBNET[30]}, proxy_protocol=2)
    try:
        for node in site.nodes.values():
            assert not node.apply(port).problems
        client = site.lab.client
        for node in site.nodes.values():
            assert _told(client, node.host.address) == client.address
        assert _told(client, IPV6[name]) == IPV6["client"]
        assert _told(site.lab[name], "127.0.0.1") == "127.0.0.1"
        assert _told(site.lab["core-02"], site.lab[name].address) == site.lab["core-02"].address
    finally:
        process.kill()
        process.wait()
        site.stop_server(name, task)
        del site.nodes[name].tasks[task]
        site.nodes[name].driver.call("detach", task)
        site.spread_fabric()


def _told(asker: Host, address: str) -> str:
    """The client's address in the header; all else in there is checked."""
    command = [sys.executable, "-I", "-c", _ASK_PROXIED, address, str(PORT)]
    own_port, answer = asker.run(command).stdout.strip().split(" ", 1)
    signature, source, source_port, destination, port, text = answer.rsplit(" ", 5)
    assert signature == repr(b"\r\n\r\n\0\r\nQUIT\n\x21")
    assert (source_port, destination, port, text) == (own_port, address, str(PORT), "hello")
    return source


# --- paths ---


def test_a_datagram_is_answered_from_the_address_that_was_asked(site: Site) -> None:
    node, second = site.nodes["core-01"], {"-4": "10.77.0.21", "-6": "fd77::21"}
    lengths = {"-4": 24, "-6": 64}
    for family, address in second.items():
        node.host.run(["ip", family, "address", "add", f"{address}/{lengths[family]}", "dev", "eth0"])
    try:
        with userspace(node):
            node.apply(published(PORT, TARGET, BACKENDS, protocol="udp"))
            assert set(tasks_asked(site.lab.client, second["-4"], protocol="udp")) == set(TASKS)
            eventually(lambda: _settled(node, second["-6"]), "the address may be used")
            assert {task for task, _ in ask_ipv6(site.lab.client, second["-6"], "udp")} == set(TASKS)
    finally:
        for family, address in second.items():
            node.host.run(["ip", family, "address", "del", f"{address}/{lengths[family]}", "dev", "eth0"])


def _settled(node: Node, address: str) -> bool:
    return "tentative" not in node.host.run(["ip", "-6", "address", "show", "to", address]).stdout


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_one_ipv6_address(site: Site, protocol: str) -> None:
    node = site.nodes["core-01"]
    port = published(PORT, TARGET, BACKENDS, host_ip=IPV6["core-01"], protocol=protocol)
    assert not node.apply(port).problems
    assert {task for task, _ in ask_ipv6(site.lab.client, IPV6["core-01"], protocol)} == set(TASKS)
    assert refused(site.lab.client, node.host.address, protocol=protocol)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_clients_from_elsewhere_over_ipv6_are_served_and_seen_as_the_node(site: Site, protocol: str) -> None:
    node = site.nodes["core-01"]
    node.apply(published(PORT, TARGET, BACKENDS, protocol=protocol))
    answers = ask_ipv6(site.lab.client, IPV6["core-01"], protocol)
    assert {task for task, _ in answers} == set(TASKS)
    assert {peer for _, peer in answers} == {str(node.ingress_address)}


def ask_ipv6(host: Host, address: str, protocol: str) -> list[tuple[str, str]]:
    kind = "SOCK_STREAM" if protocol == "tcp" else "SOCK_DGRAM"
    text = (
        "import socket\n"
        "for _ in range(6):\n"
        f"    with socket.socket(socket.AF_INET6, socket.{kind}) as asker:\n"
        f"        asker.settimeout(3); asker.connect(({address!r}, {PORT})); asker.send(b'?')\n"
        "        print(asker.recv(100).decode().split('\\n')[0])\n"
    )
    lines = host.run([sys.executable, "-I", "-c", text]).stdout.splitlines()
    return [(line.split()[0], line.split()[1]) for line in lines]


def test_a_node_on_the_userspace_path_serves_clients_from_elsewhere(site: Site) -> None:
    node = site.nodes["core-02"]
    with userspace(node):
        assert not node.apply(*_both(BACKENDS)).problems
        assert "mini_ingress" not in node.host.run(["nft", "list", "tables"]).stdout
        for protocol in ("tcp", "udp"):
            answers = ask(site.lab.client, node.host.address, PORT, count=6, protocol=protocol)
            assert {answer.task for answer in answers} == set(TASKS)
            assert {answer.peer for answer in answers} == {str(node.ingress_address)}
        node.apply(*_both({}))
        assert refused(site.lab.client, node.host.address)
    node.apply(*_both(BACKENDS))
    (answer,) = ask(site.lab.client, node.host.address, PORT)
    assert answer.peer == site.lab.client.address


def test_without_nft_the_userspace_path_is_taken_by_itself(site: Site) -> None:
    node = site.nodes["core-03"]
    program = node.host.run(["sh", "-c", "PATH=$PATH:/usr/sbin command -v nft"]).stdout.strip()
    node.host.run(["mount", "--bind", "/bin/false", program])
    try:
        node.restart_ingress()
        assert not node.apply(*_both(BACKENDS)).problems
        assert "No kernel path on this node" in node.host.log("mini-ingress.log")
    finally:
        node.host.run(["umount", program])
    answers = ask(site.lab.client, node.host.address, PORT, count=6)
    assert {answer.task for answer in answers} == set(TASKS)
    node.restart_ingress()
    node.apply(*_both(BACKENDS))
    assert ask(site.lab.client, node.host.address, PORT)[0].peer == site.lab.client.address


def test_a_connection_goes_on_while_mini_ingress_is_killed_and_tables_change(site: Site) -> None:
    node = site.nodes["core-03"]
    node.apply(*_both(BACKENDS))
    talk = Talk(site.lab.client, node.host.address, PORT)
    try:
        node.restart_ingress()
        assert talk.says("after it was killed") == "after it was killed"
        node.apply(*_both(BACKENDS))
        assert talk.says("after it came back") == "after it came back"
        others = {task: address for task, address in BACKENDS.items() if task != talk.task}
        node.apply(*_both(others))
        assert talk.says("no longer in the table") == "no longer in the table"
        assert talk.task not in tasks_asked(site.lab.client, node.host.address)
        node.apply()
        assert talk.says("unpublished") == "unpublished"
    finally:
        talk.close()


def test_nothing_else_opens(site: Site) -> None:
    """Every tcp port of a node, tried by a client, with ports published in each way and with none."""
    node = site.nodes["core-01"]
    node.apply()
    before = _open_ports(site, node)
    node.apply(
        published(4567, TARGET, BACKENDS),
        published(4568, TARGET, BACKENDS, host_ip=node.host.address),
        published(4569, TARGET, BACKENDS, sticky=True),
        published(4570, TARGET, BACKENDS, proxy_protocol=2),
        published(4571, TARGET, BACKENDS, host_ip="127.0.0.1"),
        published(4572, TARGET, BACKENDS, protocol="udp"),
    )
    assert _open_ports(site, node) - before == {4567, 4568, 4569, 4570}
    node.apply()
    assert _open_ports(site, node) == before


def _open_ports(site: Site, node: Node) -> set[int]:
    command = [sys.executable, "-I", "-c", _SCAN, node.host.address]
    return {int(line) for line in site.lab.client.run(command).stdout.split()}


def _both(backends: dict[str, IPv4Address]) -> tuple[dispatch.PublishedPort, ...]:
    return tuple(published(PORT, TARGET, backends, protocol=name) for name in ("tcp", "udp"))
