"""The kernel's own WireGuard, through generic netlink, in the network namespace of the calling thread."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import IPRoute, NetlinkError, WireGuard

from miniworker.network.errors import NetworkError
from miniworker.network.names import CARRIER
from miniworker.network.namespaces import in_scratch_namespace
from miniworker.network.wireguard.settings import Change, Peer, Settings

_NO_KEY = bytes(32)


def kernel_encrypts() -> bool:
    """Whether the kernel has WireGuard, loading its module if it is one: an interface is made where nobody sees it."""

    def try_it() -> bool:
        with IPRoute() as netlink:
            try:
                netlink.link("add", ifname=CARRIER, kind="wireguard")
            except NetlinkError:
                return False
            return True

    return in_scratch_namespace(try_it)


def read_settings() -> Settings:
    """Raises NetworkError."""
    try:
        with WireGuard() as netlink:
            return parse(netlink.info(CARRIER))
    except (NetlinkError, OSError) as error:
        raise NetworkError(f"the kernel does not tell the settings of {CARRIER}: {error}") from error


def apply_change(change: Change, *, port: int) -> None:
    """`port`: where the peers listen. Raises NetworkError."""
    try:
        with WireGuard() as netlink:
            for arguments in requests_of(change, port=port):
                netlink.set(CARRIER, **arguments)
    except (NetlinkError, OSError) as error:
        raise NetworkError(f"the kernel refused settings of {CARRIER}: {error}") from error


def requests_of(change: Change, *, port: int) -> Iterator[dict[str, Any]]:
    """Arguments of `WireGuard.set`, one peer each, in order: pure."""
    if change.private_key or change.port:
        own = {"private_key": change.private_key, "listen_port": change.port}
        yield {key: value for key, value in own.items() if value}
    for peer in change.put:
        named: dict[str, Any] = {"public_key": peer.public_key, "replace_allowed_ips": True}
        if peer.vtep is not None:
            named |= {"endpoint_addr": str(peer.vtep), "endpoint_port": port}
            named["allowed_ips"] = [f"{peer.vtep}/32"]
        yield {"peer": named}
    for key in change.removed:
        yield {"peer": {"public_key": key, "remove": True}}
    for interval in (1, 0):  # beginning to keep alive sends something at once
        for key in change.greeted:
            yield {"peer": {"public_key": key, "update_only": True, "persistent_keepalive": interval}}


def parse(messages: Iterable[Mapping[str, Any]]) -> Settings:
    """What pyroute2 makes of the kernel's answer, which comes in parts when there are many peers: pure."""
    private_key, port = "", 0
    peers: dict[str, IPv4Address | None] = {}
    for message in messages:
        attributes = dict(message["attrs"])
        private_key = _key(attributes.get("WGDEVICE_A_PRIVATE_KEY")) or private_key
        port = int(attributes.get("WGDEVICE_A_LISTEN_PORT") or port)
        for item in attributes.get("WGDEVICE_A_PEERS") or ():
            peer = dict(item["attrs"])
            key = _key(peer["WGPEER_A_PUBLIC_KEY"])
            peers.setdefault(key, None)
            for allowed in peer.get("WGPEER_A_ALLOWEDIPS") or ():
                peers[key] = IPv4Address(allowed["addr"].partition("/")[0])
    return Settings(private_key, port, frozenset(Peer(key, vtep) for key, vtep in peers.items()))


def _key(value: Any) -> str:
    """Base64 text of a key as pyroute2 gives it; empty for none, which the kernel says as zeros."""
    text = value["value"] if isinstance(value, Mapping) else value
    text = text.decode() if isinstance(text, bytes) else text or ""
    return "" if not text or base64.b64decode(text) == _NO_KEY else text
