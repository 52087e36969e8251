"""Keys, settings of the interface and how they are told; test_encryption.py of the integration tests has traffic."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.api import Announced, EncryptionPeer, Fabric
from miniworker.network.errors import NetworkError
from miniworker.network.wireguard import kernel, uapi
from miniworker.network.wireguard.keys import KeyFile, KeyPair, KeyRing, make_pair
from miniworker.network.wireguard.settings import (
    NOTHING,
    Change,
    Peer,
    Settings,
    change_of,
    settings_in_words,
    wanted_settings,
)

OWN, HERE, THERE = "node1", IPv4Address("10.77.0.11"), IPv4Address("10.77.0.12")


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def pair(number: int) -> KeyPair:
    return KeyPair(key(number), key(number + 100), number)


RING = KeyRing((pair(1), pair(2)))


def fabric(*peers: EncryptionPeer) -> Fabric:
    return Fabric(OWN, HERE, peers=peers)


# --- keys ---


def test_keys_are_made_once_and_kept_for_root_alone(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "swarm" / "wireguard.json")
    ring = file.read(now_ns=5)
    assert file.read(now_ns=6) == ring
    assert [item.made_at_ns for item in ring.pairs] == [5, 5]
    assert (tmp_path / "swarm" / "wireguard.json").stat().st_mode & 0o777 == 0o600
    assert list((tmp_path / "swarm").iterdir()) == [tmp_path / "swarm" / "wireguard.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "[{}]", '[{"private": "eA==", "made_at_ns": 1}]', "[1]"])
def test_keys_that_cannot_be_read_are_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wireguard.json"
    path.write_text(text)
    assert len(KeyFile(path).read(now_ns=7).pairs) == 2


def test_a_disk_that_takes_no_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetworkError, match=r"cannot keep the keys of encrypted networks: .*file"):
        KeyFile(tmp_path / "file" / "wireguard.json").read(now_ns=7)


def test_a_pair_is_a_pair_and_does_not_show_what_is_private() -> None:
    made = make_pair(3)
    assert len(base64.b64decode(made.private)) == len(base64.b64decode(made.public)) == 32
    assert made.private not in repr(KeyRing((made, made)))


def test_the_next_key_is_announced_before_it_is_used() -> None:
    assert RING.announced == Announced(pair(1).public, pair(2).public)
    rotated = RING.rotated(pair(3))
    assert rotated.announced == Announced(pair(2).public, pair(3).public)
    assert rotated.rotated(pair(4)).pairs == (pair(2), pair(3), pair(4))
    assert rotated.due_at_ns(10) == 13


def test_the_key_in_use_is_the_one_that_the_cluster_knows() -> None:
    rotated = RING.rotated(pair(3))
    assert rotated.in_use(pair(1).public) == pair(1)
    assert rotated.in_use(pair(2).public) == pair(2)
    assert RING.in_use("") == pair(1)
    assert RING.in_use(key(99)) == pair(1)


# --- settings ---


def test_every_other_node_is_a_peer_with_the_key_that_it_takes_next() -> None:
    known = fabric(
        EncryptionPeer(OWN, HERE, pair(2).public, key(9)), EncryptionPeer("node2", THERE, key(5), key(6))
    )
    assert wanted_settings(known, RING, port=51820) == Settings(
        pair(2).private, 51820, frozenset({Peer(key(5), THERE), Peer(key(6), None)})
    )


def test_a_peer_that_takes_its_next_key_keeps_its_address() -> None:
    before = Settings(key(1), 51820, frozenset({Peer(key(5), THERE), Peer(key(6), None)}))
    after = replace(before, peers=frozenset({Peer(key(6), THERE), Peer(key(7), None)}))
    assert change_of(before, after) == Change(
        put=(Peer(key(7), None), Peer(key(6), THERE)), removed=(key(5),)
    )


def test_whoever_cannot_know_what_we_send_is_spoken_to_first() -> None:
    wanted = Settings(key(1), 51820, frozenset({Peer(key(5), THERE), Peer(key(6), None)}))
    assert change_of(NOTHING, wanted).greeted == (key(5),)
    assert change_of(replace(wanted, private_key=key(2)), wanted) == Change(
        private_key=key(1), greeted=(key(5),)
    )
    assert change_of(replace(wanted, peers=frozenset()), wanted).greeted == (key(5),)
    assert not change_of(wanted, wanted)


def test_differences_are_told_without_the_private_key() -> None:
    wanted = Settings(key(1), 51820, frozenset({Peer(key(5), THERE), Peer(key(6), None)}))
    found = Settings(key(2), 1, frozenset({Peer(key(5), None), Peer(key(8), HERE)}))
    said = [(item.item, item.missing) for item in settings_in_words(found, wanted)]
    assert said == [
        ("this node's key", True),
        ("port 51820/udp (it is 1)", True),
        (f"next peer {key(6)}", True),
        (f"peer {key(5)} at 10.77.0.12", True),
        (f"peer {key(8)} at 10.77.0.11", False),
    ]
    assert not list(settings_in_words(wanted, wanted))
    assert key(1) not in repr((wanted, change_of(found, wanted)))


def peers() -> st.SearchStrategy[frozenset[Peer]]:
    vteps = st.sampled_from([None, *(IPv4Address(f"10.77.0.{number}") for number in (12, 13, 14))])
    listed = st.lists(st.builds(Peer, st.integers(1, 6).map(key), vteps), max_size=5)

    def plausible(items: list[Peer]) -> frozenset[Peer]:
        by_key = {item.public_key: item for item in items}
        taken: set[IPv4Address] = set()
        kept = []
        for item in by_key.values():
            if item.vtep not in taken:
                kept.append(item)
            if item.vtep is not None:
                taken.add(item.vtep)
        return frozenset(kept)

    return listed.map(plausible)


def settings() -> st.SearchStrategy[Settings]:
    return st.builds(Settings, st.integers(11, 12).map(key), st.sampled_from([51820, 51821]), peers())


class Program:
    """What wireguard-go makes of the lines that it is told."""

    def __init__(self, state: Settings) -> None:
        self.private_key, self.port = state.private_key, state.port
        self.peers = {item.public_key: item.vtep for item in state.peers}

    def take(self, lines: list[str]) -> None:
        peer = ""
        for line in lines:
            name, _, value = line.partition("=")
            if name == "private_key":
                self.private_key = base64.b64encode(bytes.fromhex(value)).decode()
            elif name == "listen_port":
                self.port = int(value)
            elif name == "public_key":
                peer = base64.b64encode(bytes.fromhex(value)).decode()
                self.peers.setdefault(peer, None)
            elif name == "replace_allowed_ips":
                self.peers[peer] = None
            elif name == "allowed_ip":
                address = IPv4Address(value.removesuffix("/32"))
                for other in self.peers:  # an address belongs to one peer at a time
                    self.peers[other] = None if self.peers[other] == address else self.peers[other]
                self.peers[peer] = address
            elif name == "remove":
                del self.peers[peer]

    @property
    def state(self) -> Settings:
        return Settings(
            self.private_key, self.port, frozenset(Peer(name, vtep) for name, vtep in self.peers.items())
        )

    def told(self) -> list[str]:
        lines = [f"private_key={base64.b64decode(self.private_key).hex()}", f"listen_port={self.port}"]
        for name, vtep in self.peers.items():
            lines += [f"public_key={base64.b64decode(name).hex()}", "last_handshake_time_sec=0"]
            lines += [f"allowed_ip={vtep}/32"] if vtep else []
        return [*lines, "errno=0"]


@given(found=settings(), wanted=settings())
def test_a_change_leads_the_program_to_what_is_wanted(found: Settings, wanted: Settings) -> None:
    program = Program(found)
    program.take(list(uapi.lines_of(change_of(found, wanted), port=wanted.port)))
    assert program.state == wanted
    assert uapi.parse(program.told()) == wanted


@given(found=settings(), wanted=settings())
def test_a_change_leads_the_kernel_to_what_is_wanted(found: Settings, wanted: Settings) -> None:
    """The same lines, by way of what is handed to netlink."""
    lines: list[str] = []
    for request in kernel.requests_of(change_of(found, wanted), port=wanted.port):
        peer: dict[str, Any] = request.get("peer", {})
        if "private_key" in request:
            lines.append(f"private_key={base64.b64decode(request['private_key']).hex()}")
        if "listen_port" in request:
            lines.append(f"listen_port={request['listen_port']}")
        if peer:
            lines.append(f"public_key={base64.b64decode(peer['public_key']).hex()}")
            lines += ["replace_allowed_ips=true"] if peer.get("replace_allowed_ips") else []
            lines += [f"allowed_ip={item}" for item in peer.get("allowed_ips", ())]
            lines += ["remove=true"] if peer.get("remove") else []
    program = Program(found)
    program.take(lines)
    assert program.state == wanted


def test_what_the_kernel_tells_in_parts_is_one() -> None:
    def message(*attributes: tuple[str, Any]) -> dict[str, Any]:
        return {"attrs": list(attributes)}

    allowed = {"attrs": [], "addr": "10.77.0.12/32"}
    answer = [
        message(
            ("WGDEVICE_A_PRIVATE_KEY", {"key": b"", "value": key(1).encode()}),
            ("WGDEVICE_A_LISTEN_PORT", 51820),
            ("WGDEVICE_A_PEERS", [message(("WGPEER_A_PUBLIC_KEY", {"value": key(5).encode()}))]),
        ),
        message(
            (
                "WGDEVICE_A_PEERS",
                [
                    message(
                        ("WGPEER_A_PUBLIC_KEY", {"value": key(5).encode()}),
                        ("WGPEER_A_ALLOWEDIPS", [allowed]),
                    ),
                    message(("WGPEER_A_PUBLIC_KEY", key(6).encode())),
                ],
            )
        ),
    ]
    assert kernel.parse(answer) == Settings(
        key(1), 51820, frozenset({Peer(key(5), THERE), Peer(key(6), None)})
    )
    assert kernel.parse([message(("WGDEVICE_A_PRIVATE_KEY", {"value": key(0).encode()}))]) == NOTHING
    assert kernel.parse([message()]) == NOTHING
