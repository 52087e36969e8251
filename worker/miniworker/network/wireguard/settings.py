"""What the WireGuard interface should know, and what must change for it: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from miniworker.network.api import Difference, EncryptionPeer, Fabric
from miniworker.network.wireguard.keys import KeyRing


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    public_key: str
    vtep: IPv4Address | None
    """Where it is, and the only address that may come from it and goes to it. None: nothing yet, it is expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    private_key: str = field(repr=False)
    port: int
    peers: frozenset[Peer]


NOTHING = Settings("", 0, frozenset())
"""Of a new interface."""


@dataclass(frozen=True, slots=True)
class Change:
    private_key: str = field(default="", repr=False)
    """Empty: it stays."""
    port: int = 0
    """0: it stays."""
    put: tuple[Peer, ...] = ()
    removed: tuple[str, ...] = ()
    greeted: tuple[str, ...] = ()
    """Peers to say something to at once: what they send by what they knew of us is refused until we speak."""

    def __bool__(self) -> bool:
        return bool(self.private_key or self.port or self.put or self.removed)


def wanted_settings(fabric: Fabric, ring: KeyRing, *, port: int) -> Settings:
    """Each other node's current key leads to it; its next one is known already, for the moment when it changes."""
    own = next((peer.public_key for peer in fabric.peers if peer.node_id == fabric.node_id), "")
    return Settings(
        private_key=ring.in_use(own).private,
        port=port,
        peers=frozenset(
            item for peer in fabric.peers if peer.node_id != fabric.node_id for item in _peers(peer)
        ),
    )


def change_of(found: Settings, wanted: Settings) -> Change:
    """What leads from `found` to `wanted`. An address moves to the peer that is put last, so nobody loses it twice."""
    new_key = wanted.private_key != found.private_key
    kept = {item.public_key for item in wanted.peers}
    known: set[str] = set() if new_key else {item.public_key for item in found.peers}
    return Change(
        private_key=wanted.private_key if new_key else "",
        port=wanted.port if wanted.port != found.port else 0,
        put=tuple(sorted(wanted.peers - found.peers, key=_expected_first)),
        removed=tuple(sorted({item.public_key for item in found.peers} - kept)),
        greeted=tuple(sorted(i.public_key for i in wanted.peers if i.vtep and i.public_key not in known)),
    )


def settings_in_words(found: Settings, wanted: Settings) -> Iterator[Difference]:
    """In what the interface is not as planned; never a private key."""
    if found.private_key != wanted.private_key:
        yield Difference("encryption", "", "this node's key", missing=True)
    if found.port != wanted.port:
        yield Difference("encryption", "", f"port {wanted.port}/udp (it is {found.port})", missing=True)
    for peer in sorted(wanted.peers - found.peers, key=_expected_first):
        yield Difference("encryption", "", _peer_in_words(peer), missing=True)
    kept = {item.public_key for item in wanted.peers}
    for peer in sorted(found.peers - wanted.peers, key=_expected_first):
        if peer.public_key not in kept:
            yield Difference("encryption", "", _peer_in_words(peer), missing=False)


def _peers(peer: EncryptionPeer) -> Iterator[Peer]:
    yield Peer(peer.public_key, peer.vtep)
    if peer.next_public_key:
        yield Peer(peer.next_public_key, None)


def _peer_in_words(peer: Peer) -> str:
    return f"peer {peer.public_key} at {peer.vtep}" if peer.vtep else f"next peer {peer.public_key}"


def _expected_first(peer: Peer) -> tuple[bool, str]:
    return peer.vtep is not None, peer.public_key
