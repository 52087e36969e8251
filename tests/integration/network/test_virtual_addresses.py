"""Services at addresses of their own: who answers, what a change does, and to whom it does nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from miniworker.network.api import Fabric
from support.hosts import Lab
from support.overlay_site import PORT, Site, network, virtual, with_backends

pytestmark = pytest.mark.root

A, B = network(1), network(2)
WEB = {
    "w1aaaaaaaaaaaaaa": ("core-01", A.subnet[11]),
    "w2aaaaaaaaaaaaaa": ("core-02", A.subnet[12]),
    "w3aaaaaaaaaaaaaa": ("core-02", A.subnet[13]),
}
W1, W2, W3 = WEB
BACKENDS = [address for _, address in WEB.values()]
ASKER, STRANGER = "askaaaaaaaaaaaaa", "strangeaaaaaaaaa"
SERVICE = virtual(A, 100, *BACKENDS)
IDLE = virtual(A, 101)
PROTOCOLS = ("tcp", "udp")


@pytest.fixture(scope="module")
def everything() -> Iterator[Site]:
    with Lab(f"v{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site = Site(lab, (A, B))
        try:
            for name in ("core-01", "core-02"):
                site.add_node(name)
            site.spread()
            for task, (name, address) in WEB.items():
                site.start_task(name, task, address)
            site.attach("core-01", ASKER, A.subnet[20], B.subnet[20])
            site.attach("core-01", STRANGER, B.subnet[21])
            yield site
        finally:
            site.close()


@pytest.fixture
def site(everything: Site) -> Site:
    everything.serve(SERVICE, IDLE)
    return everything


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_connections_are_spread_evenly(site: Site, protocol: str) -> None:
    answers = site.ask(ASKER, SERVICE.address, protocol=protocol, count=60)
    assert Counter(answer.task for answer in answers) == dict.fromkeys(WEB, 20)
    assert {answer.peer for answer in answers} == {str(A.subnet[20])}


def test_the_first_connections_of_many_tasks_are_spread_too(site: Site) -> None:
    tasks = [f"{number:02}first" for number in range(24)]
    for number, task in enumerate(tasks):
        site.attach("core-01", task, A.subnet[50 + number])
    site.spread()
    try:
        first = Counter(site.ask(task, SERVICE.address)[0].task for task in tasks)
        assert set(first) == set(WEB)
        assert max(first.values()) <= 14
    finally:
        for task in tasks:
            site.remove(task)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_task_reaches_its_own_service_itself_included(site: Site, protocol: str) -> None:
    answers = site.ask(W1, SERVICE.address, protocol=protocol, count=9)
    assert Counter(answer.task for answer in answers) == dict.fromkeys(WEB, 3)


def test_who_asked_too_early_by_udp_is_answered_later(site: Site) -> None:
    script = (
        "import socket, sys\n"
        "asker = socket.socket(type=socket.SOCK_DGRAM)\n"
        "asker.settimeout(3)\n"
        "asker.connect((sys.argv[1], 8000))\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        asker.send(b'?')\n"
        "        print(asker.recv(100).decode().split()[0], flush=True)\n"
        "    except ConnectionRefusedError:\n"
        "        print('refused', flush=True)\n"
    )
    asker = site.process(ASKER, script, str(IDLE.address))
    assert asker.stdin is not None
    assert asker.stdout is not None
    answers = []
    for backends in ((), (BACKENDS[0],), ()):
        site.serve(SERVICE, with_backends(IDLE, *backends))
        asker.stdin.write("\n")
        asker.stdin.flush()
        answers.append(asker.stdout.readline().strip())
    asker.communicate(timeout=10)
    assert answers == ["refused", W1, "refused"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_service_without_tasks_refuses_at_once(site: Site, protocol: str) -> None:
    started = time.monotonic()
    with pytest.raises(subprocess.CalledProcessError) as raised:
        site.ask(ASKER, IDLE.address, protocol=protocol)
    assert "ConnectionRefusedError" in raised.value.stderr
    assert time.monotonic() - started < 2.5
    site.serve(SERVICE, with_backends(IDLE, BACKENDS[0]))
    assert site.ask(ASKER, IDLE.address, protocol=protocol)[0].task == W1
    assert site.ask(W1, IDLE.address, protocol=protocol)[0].task == W1


def test_tasks_of_other_networks_do_not_see_it(site: Site) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        site.ask(STRANGER, SERVICE.address)


_SESSIONS = """
import socket, sys
address, count = sys.argv[1], int(sys.argv[2])
sessions = [socket.create_connection((address, 8000), 3) for _ in range(count)]
files = [item.makefile("rwb") for item in sessions]
names = [file.readline().split()[0].decode() for file in files]
print(*names, flush=True)
for line in sys.stdin:
    for file in files:
        file.write(line.encode())
        file.flush()
        assert file.readline() == line.encode()
    print("alive", flush=True)
"""


def test_no_change_cuts_a_session(site: Site) -> None:
    """Of other services, of other backends, of its own, and a new agent."""
    sessions = site.process(ASKER, _SESSIONS, str(SERVICE.address), "6")
    assert sessions.stdin is not None
    assert sessions.stdout is not None
    try:
        assert set(sessions.stdout.readline().split()) == set(WEB)
        changes = (
            (SERVICE,),
            (with_backends(SERVICE, BACKENDS[0]), with_backends(IDLE, BACKENDS[1])),
            (with_backends(SERVICE),),
            (),
            (SERVICE, IDLE),
        )
        for services in changes:
            site.serve(*services)
            sessions.stdin.write("still there?\n")
            sessions.stdin.flush()
            assert sessions.stdout.readline() == "alive\n"
        site.restart("core-01")
        sessions.stdin.write("still there?\n")
        sessions.stdin.flush()
        assert sessions.stdout.readline() == "alive\n"
    finally:
        sessions.communicate(timeout=10)
    assert sessions.returncode == 0


_ASK_ON = """
import socket, sys, threading
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
asked = failed = 0
print("ready", flush=True)
while not told.is_set():
    asked += 1
    try:
        with socket.create_connection((sys.argv[1], 8000), 3) as asker:
            failed += not asker.recv(100)
    except OSError as error:
        print(repr(error), file=sys.stderr)
        failed += 1
print(asked, failed)
"""


def test_no_connection_fails_while_backends_come_and_go(site: Site) -> None:
    asker = site.process(ASKER, _ASK_ON, str(SERVICE.address))
    assert asker.stdout is not None
    assert asker.stdout.readline() == "ready\n"
    for number in range(30):
        site.serve(with_backends(SERVICE, BACKENDS[number % 3], BACKENDS[(number + 1) % 3]), IDLE)
    output, _ = asker.communicate("\n", timeout=10)
    asked, failed = map(int, output.split())
    assert failed == 0
    assert asked > 30


_DATAGRAMS = """
import socket, sys
asker = socket.socket(type=socket.SOCK_DGRAM)
asker.settimeout(3)
asker.connect((sys.argv[1], 8000))
for line in sys.stdin:
    asker.send(b"?")
    print(asker.recv(100).decode().split()[0], flush=True)
"""


def test_a_udp_flow_leaves_a_backend_that_was_removed_and_no_other(site: Site) -> None:
    talkers = [site.process(ASKER, _DATAGRAMS, str(SERVICE.address)) for _ in range(3)]

    def talk() -> list[str]:
        names = []
        for talker in talkers:
            assert talker.stdin is not None
            assert talker.stdout is not None
            talker.stdin.write("\n")
            talker.stdin.flush()
            names.append(talker.stdout.readline().strip())
        return names

    try:
        before = talk()
        assert sorted(before) == sorted(WEB)
        assert talk() == before
        site.serve(with_backends(SERVICE, BACKENDS[0], BACKENDS[2]), IDLE)
        after = talk()
        assert set(after) == {W1, W3}
        assert [name for name in after if before[after.index(name)] != W2]
        for was, now in zip(before, after, strict=True):
            assert now == was or was == W2
    finally:
        for talker in talkers:
            talker.communicate(timeout=10)


def test_a_new_agent_removes_what_nobody_wants_any_more(site: Site) -> None:
    """While it was away a service and a network went, and somebody put rules of his own into a sandbox' table."""
    driver = site.drivers["core-01"]
    driver.call("set_fabric", site.fabric("core-01"))
    site.run(ASKER, ["nft", "add", "chain", "ip", "mini", "stranger"])
    site.services, networks = (SERVICE,), site.networks
    site.remove(STRANGER)
    try:
        site.restart("core-01")
        rules = site.run(ASKER, ["nft", "list", "ruleset"]).stdout
        assert str(SERVICE.address) in rules
        assert str(IDLE.address) not in rules
        assert "stranger" not in rules
        site.networks = (A,)
        site.restart("core-01")
        assert f"mbr-{B.id[:8]}" not in site.run("core-01", ["ip", "-o", "link"]).stdout
        assert site.drivers["core-01"].call("verify") == ()
    finally:
        site.networks = networks
        site.spread()
        site.attach("core-01", STRANGER, B.subnet[21])
        site.spread()


def test_without_a_fabric_nothing_is_said_to_differ(site: Site) -> None:
    site.drivers["core-02"].close()
    site.add_node("core-02")
    assert site.drivers["core-02"].call("repair") == ()
    assert site.ask(W2, SERVICE.address, PORT)
    site.drivers["core-02"].call("set_fabric", Fabric("core-02", site.fabric("core-02").data_path_address))
    site.spread()
    assert site.ask(W2, SERVICE.address, PORT)
