"""Encrypted networks: what is on the wire, what is let in, and what becomes of connections when keys change."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from miniworker.network.api import Announced
from support.cluster import eventually
from support.data_plane_driver import RemoteError
from support.hosts import Lab
from support.overlay_site import PORT, Site, network

pytestmark = pytest.mark.root

SECRET, PLAIN = network(1, mtu=1370, encrypted=True), network(2)
NODES = ("core-01", "core-02", "core-03")
TASKS: dict[str, tuple[str, tuple[IPv4Address, ...]]] = {
    "s1aaaaaaaaaaaaaa": ("core-01", (SECRET.subnet[11],)),
    "s2aaaaaaaaaaaaaa": ("core-02", (SECRET.subnet[12],)),
    "s3aaaaaaaaaaaaaa": ("core-03", (SECRET.subnet[13],)),
    "p1aaaaaaaaaaaaaa": ("core-01", (PLAIN.subnet[11],)),
    "p2aaaaaaaaaaaaaa": ("core-02", (PLAIN.subnet[12],)),
}
S1, S2, S3, P1, P2 = TASKS
CANARY = "canary-3f9a1c"

CAPTURE = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 0))
link.settimeout(0.2)
print("ready", flush=True)
import threading
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
count = clear = plain = sealed = 0
vni = int(sys.argv[3]).to_bytes(3, "big")
while not stopped.is_set():
    try:
        frame = link.recv(65536)
    except TimeoutError:
        continue
    count += 1
    clear += sys.argv[2].encode() in frame
    if frame[12:14] == b"\\x08\\x00" and frame[23] == 17:
        udp = frame[14 + (frame[14] & 15) * 4:]
        port = int.from_bytes(udp[2:4], "big")
        plain += port == 4789 and udp[12:15] == vni
        sealed += port == 51820
print(count, clear, plain, sealed)
"""

SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as link:
    reader = link.makefile("rb")
    reader.readline()
    for number in range(int(sys.argv[4])):
        text = f"{sys.argv[3]} {number}\\n".encode()
        link.sendall(text)
        assert reader.readline() == text
print("whole")
"""

INJECT = """
import socket, sys
source, target, vni, text = sys.argv[1:5]
def checksum(data):
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return (~total & 0xffff).to_bytes(2, "big")
mac = lambda address: b"\\x02\\x42" + socket.inet_aton(address)
payload = text.encode()
ports = (40000).to_bytes(2, "big") + (9999).to_bytes(2, "big")
udp = ports + (8 + len(payload)).to_bytes(2, "big") + b"\\0\\0" + payload
head = b"\\x45\\0" + (20 + len(udp)).to_bytes(2, "big") + b"\\0\\1\\0\\0\\x40\\x11"
addresses = socket.inet_aton(source) + socket.inet_aton(target)
ip = head + checksum(head + b"\\0\\0" + addresses) + addresses
frame = mac(target) + mac(source) + b"\\x08\\0" + ip + udp
vxlan = b"\\x08\\0\\0\\0" + int(vni).to_bytes(3, "big") + b"\\0"
with socket.socket(type=socket.SOCK_DGRAM) as out:
    out.sendto(vxlan + frame, (sys.argv[5], 4789))
"""

RECEIVE = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as link:
    link.bind(("0.0.0.0", 9999))
    print("ready", flush=True)
    link.settimeout(float(sys.argv[1]))
    try:
        print(link.recv(2048).decode(), flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab(f"w{os.getpid() % 10000}", NODES) as lab:
        site = Site(lab, (SECRET, PLAIN))
        try:
            for name in NODES:
                site.add_node(name)
                site.encrypt(name)
            site.spread()
            for task, (name, addresses) in TASKS.items():
                site.start_task(name, task, *addresses)
            site.spread()
            yield site
        finally:
            site.close()


def connected(site: Site) -> None:
    for where in (S1, S2, S3):
        for other in (S1, S2, S3):
            if where != other:
                answer = site.ask(where, site.tasks[other].attachments[0].address)[0]
                assert (answer.task, answer.peer) == (other, str(site.tasks[where].attachments[0].address))


@contextlib.contextmanager
def capture(site: Site, host: str, vni: int) -> Iterator[dict[str, int]]:
    """Of all that is on the host's link meanwhile: frames, those with the canary, VXLAN of the network, WireGuard."""
    seen: dict[str, int] = {}
    process = site.process(host, CAPTURE, "eth0", CANARY, str(vni))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield seen
    output, _ = process.communicate("\n", timeout=30)
    seen.update(zip(("all", "clear", "plain", "sealed"), map(int, output.split()), strict=True))


def test_tasks_reach_each_other_and_the_kernel_is_as_planned(site: Site) -> None:
    connected(site)
    assert [site.drivers[name].call("verify") for name in NODES] == [(), (), ()]


def test_nothing_of_an_encrypted_network_is_on_the_wire_in_clear(site: Site) -> None:
    with capture(site, "core-01", SECRET.vni) as seen:
        site.python(S1, SEND, str(SECRET.subnet[12]), str(PORT), CANARY, "50")
    assert seen["sealed"] > 100
    assert (seen["clear"], seen["plain"]) == (0, 0)


def test_the_capture_sees_what_is_not_encrypted(site: Site) -> None:
    with capture(site, "core-01", PLAIN.vni) as seen:
        site.python(P1, SEND, str(PLAIN.subnet[12]), str(PORT), CANARY, "50")
    assert seen["clear"] > 50
    assert seen["plain"] > 50


@pytest.mark.parametrize(("target", "item", "arrives"), [(S2, SECRET, "nothing"), (P2, PLAIN, CANARY)])
def test_frames_from_outside_are_let_in_to_plain_networks_only(
    site: Site, target: str, item: object, arrives: str
) -> None:
    """The second case shows that the frames are good: VXLAN itself asks nobody who he is."""
    subnet, vni = (SECRET.subnet, SECRET.vni) if item is SECRET else (PLAIN.subnet, PLAIN.vni)
    receiver = site.process(target, RECEIVE, "2" if arrives == "nothing" else "10")
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    node = site.lab[site.tasks[target].node].address
    site.python("client", INJECT, str(subnet[11]), str(subnet[12]), str(vni), CANARY, node)
    output, _ = receiver.communicate(timeout=30)
    assert output.strip() == arrives


def test_a_node_routes_nothing_in_clear_even_when_its_entry_is_wrong(site: Site) -> None:
    """Somebody leads a frame past the interface that encrypts: it does not leave."""
    device = f"mvx-{SECRET.id[:8]}"
    mac = "02:42:" + ":".join(f"{byte:02x}" for byte in SECRET.subnet[12].packed)
    entry = ["bridge", "fdb", "replace", mac, "dev", device, "dst", site.lab["core-02"].address, "self"]
    site.lab["core-01"].run(entry)
    with capture(site, "core-01", SECRET.vni) as seen, pytest.raises(subprocess.CalledProcessError):
        site.ask(S1, SECRET.subnet[12])
    assert seen["plain"] == 0
    assert any(item.kind == "forwarding entry" for item in site.drivers["core-01"].call("verify"))
    site.drivers["core-01"].call("repair")
    connected(site)


def test_keys_change_under_load_and_nothing_is_lost(site: Site) -> None:
    """TCP repeats what fell between the old key and the new one; no connection ends, none waits for long."""
    before = dict(site.keys)
    done: list[str] = []
    loads = [
        threading.Thread(
            target=lambda where=where, to=to: done.append(
                site.python(
                    where, SEND, str(site.tasks[to].attachments[0].address), str(PORT), CANARY, "4000"
                )
            )
        )
        for where, to in ((S1, S2), (S2, S3), (S3, S1))
    ]
    for load in loads:
        load.start()
    for name in NODES:
        site.keys[name] = site.drivers[name].call("rotate_keys")
        site.spread()
    for load in loads:
        load.join()
    assert done == ["whole\n"] * 3
    assert {name: keys.current for name, keys in site.keys.items()} == {
        name: keys.next for name, keys in before.items()
    }
    connected(site)
    assert [site.drivers[name].call("verify") for name in NODES] == [(), (), ()]


def test_a_new_agent_finds_the_tunnels_and_disturbs_nothing(site: Site) -> None:
    load = threading.Thread(
        target=lambda: done.append(site.python(S1, SEND, str(SECRET.subnet[12]), str(PORT), CANARY, "3000"))
    )
    done: list[str] = []
    load.start()
    site.restart("core-01")
    assert site.drivers["core-01"].call("keys") == site.keys["core-01"]
    load.join()
    assert done == ["whole\n"]
    assert site.drivers["core-01"].call("verify") == ()


def test_a_new_program_is_given_its_keys_at_once(site: Site) -> None:
    """Interface and tunnels outlive it; what it knew went with it."""
    program = site.programs["core-02"]
    pids = site.lab["core-02"].run(["pgrep", "-x", "wireguard-go"]).stdout.split()
    site.lab["core-02"].run(["kill", "-9", *pids])
    program.wait()
    assert any(item.item == "wireguard-go" for item in site.drivers["core-02"].call("verify"))
    site.programs["core-02"] = site.lab["core-02"].start(["wireguard-go", "-f", "mini-wg"], log="again.log")
    eventually(lambda: site.drivers["core-02"].call("verify") == (), "the new program has its keys")
    connected(site)


def test_keys_are_for_root_alone(site: Site) -> None:
    """On the disk of the node, and nowhere else: no log, no argument list, no description of the network."""
    path = site.netns_dir("core-01").parent / "wireguard.json"
    assert path.stat().st_mode & 0o777 == 0o600
    private = [line.split('"')[3] for line in path.read_text().split("},")]
    argv = site.lab["core-01"].run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
    logs = "".join(file.read_text(errors="replace") for file in site.lab["core-01"].directory.glob("*.log"))
    assert private
    for key in private:
        assert key not in argv + logs + repr(site.fabric("core-01"))


def test_settings_that_somebody_changed_are_put_back(site: Site) -> None:
    key = bytes(32).hex()
    script = (
        "import socket\nlink = socket.socket(socket.AF_UNIX)\nlink.connect('/run/wireguard/mini-wg.sock')\n"
        f"link.sendall(b'set=1\\nreplace_peers=true\\npublic_key={key}\\nallowed_ip=10.9.9.9/32\\n\\n')\n"
        "print(link.recv(100))\n"
    )
    site.python("core-03", script)
    found = site.drivers["core-03"].call("repair")
    assert {(item.kind, item.missing) for item in found} == {("encryption", True), ("encryption", False)}
    assert site.drivers["core-03"].call("verify") == ()
    connected(site)


def test_a_node_that_cannot_encrypt_says_so_and_keeps_its_other_networks(site: Site) -> None:
    other = site.lab["core-03"]
    site.remove(S3)
    site.drivers["core-03"].call("clear")
    assert "mini-wg" not in other.run(["ip", "link"]).stdout
    site.drivers["core-03"].close()
    other.run(["mount", "--bind", "/dev/null", "/usr/bin/wireguard-go"])
    site.add_node("core-03")
    assert site.drivers["core-03"].call("keys") == Announced()
    del site.keys["core-03"]
    site.spread()
    with pytest.raises(RemoteError, match="this node cannot encrypt: its kernel has no WireGuard"):
        site.attach("core-03", "s4aaaaaaaaaaaaaa", SECRET.subnet[14])
    site.start_task("core-03", "p3aaaaaaaaaaaaaa", PLAIN.subnet[13])
    site.spread()
    assert site.ask(P1, PLAIN.subnet[13])[0].task == "p3aaaaaaaaaaaaaa"


def test_leaving_takes_the_interface_along(site: Site) -> None:
    for task in (S1, P1):
        site.remove(task)
    site.drivers["core-01"].call("clear")
    assert "mini-wg" not in site.lab["core-01"].run(["ip", "link"]).stdout
    assert "mini" not in site.lab["core-01"].run(["nft", "list", "tables"]).stdout
