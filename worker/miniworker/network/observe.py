"""What the kernel holds of ours, read over netlink."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET, AF_UNSPEC

from pyroute2 import IPRoute

from miniworker.network import rtnetlink
from miniworker.network.model import (
    Bridge,
    Carrier,
    KernelObject,
    KernelState,
    LinkAddress,
    Neighbor,
    Tunnel,
    Vxlan,
)
from miniworker.network.names import BRIDGE_PREFIX, CARRIER, VXLAN_PREFIX
from miniworker.network.rtnetlink import Dumped

_NUD_PERMANENT = 0x80  # <linux/neighbour.h>
_NTF_SELF = 0x02
_UP = 0x1  # <linux/if.h>

_NOWHERE = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Link:
    """An interface, and the bridge that it is a port of."""

    index: int
    name: str
    up: bool
    master: str
    """Empty: of none."""
    seen: Dumped


@dataclass(frozen=True, slots=True)
class Observed:
    """Our overlay networks, and what is needed to tell whether sandboxes are connected to them."""

    state: KernelState
    links: dict[str, Link]
    forwarding: frozenset[tuple[str, str]]
    """(port, hardware address) that bridges know."""


def observe() -> Observed:
    """Of the calling thread's network namespace. Raises NetworkError."""
    links = {link.name: link for link in read_links()}
    names = {link.index: link.name for link in links.values()}
    entries = rtnetlink.dump(rtnetlink.GET_NEIGHBORS, rtnetlink.AF_BRIDGE)
    forwarding = frozenset(_forwarding(entries, names))
    return Observed(
        frozenset(
            (
                *_devices(links.values(), names),
                *_addresses(names),
                *_tunnels(entries, names, forwarding),
                *_neighbors(names),
            )
        ),
        links,
        forwarding,
    )


def read_links() -> list[Link]:
    """All interfaces of the calling thread's network namespace."""
    dumped = rtnetlink.dump(rtnetlink.GET_LINKS, AF_UNSPEC)
    heads = [struct.unpack_from("=BxHiI", item.head) for item in dumped]
    names = {head[2]: item.text(3) for head, item in zip(heads, dumped, strict=True)}
    return [
        Link(head[2], item.text(3), bool(head[3] & _UP), names.get(item.number(10), ""), item)
        for head, item in zip(heads, dumped, strict=True)
    ]


def read_addresses() -> Iterator[tuple[int, IPv4Address, int]]:
    """(interface, address, prefix length) of the calling thread's network namespace."""
    for item in rtnetlink.dump(rtnetlink.GET_ADDRESSES, AF_INET):
        _, prefix, _, _, index = struct.unpack_from("=BBBBI", item.head)
        if address := item.address(1):
            yield index, address, prefix


def used_subnets(netlink: IPRoute, *, apart_from: str) -> list[IPv4Network]:
    """The subnets that the namespace routes to or has addresses in, those of one interface left out."""
    own = {int(link["index"]) for link in netlink.get_links() if link.get_attr("IFLA_IFNAME") == apart_from}
    subnets: list[IPv4Network] = []
    for address in netlink.get_addr(family=AF_INET):
        if int(address["index"]) not in own:
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            subnets.append(IPv4Network(text, strict=False))
    for route in netlink.get_routes(family=AF_INET):
        target = route.get_attr("RTA_DST")
        if target and route.get_attr("RTA_OIF") not in own:
            subnets.append(IPv4Network(f"{target}/{route['dst_len']}", strict=False))
    return subnets


def addresses_of(netlink: IPRoute, name: str) -> list[tuple[IPv4Address, int]]:
    """(address, prefix length) of an interface; none when it does not exist."""
    return [
        (IPv4Address(address.get_attr("IFA_ADDRESS")), int(address["prefixlen"]))
        for index in netlink.link_lookup(ifname=name)
        for address in netlink.get_addr(family=AF_INET, index=index)
    ]


def _devices(links: Iterable[Link], names: dict[int, str]) -> Iterator[KernelObject]:
    for link in links:
        mtu = link.seen.number(4)
        info = rtnetlink.attributes(link.seen.attributes.get(18, b""))
        if link.name == CARRIER:
            yield Carrier(link.name, info.get(1, b"").rstrip(b"\0").decode(), mtu, link.up)
        elif link.name.startswith(BRIDGE_PREFIX):
            yield Bridge(link.name, link.seen.mac(1), mtu, link.up)
        elif link.name.startswith(VXLAN_PREFIX):
            data = Dumped(b"", rtnetlink.attributes(info.get(2, b"")))
            port = int.from_bytes(data.attributes.get(15, b""), "big")
            local = data.address(4) or _NOWHERE
            via = names.get(data.number(3), "")
            yield Vxlan(link.name, link.master, data.number(1), local, port, mtu, link.up, via)


def _addresses(names: dict[int, str]) -> Iterator[KernelObject]:
    for index, address, prefix in read_addresses():
        if (name := names.get(index, "")).startswith((BRIDGE_PREFIX, CARRIER)):
            yield LinkAddress(name, address, prefix)


def _forwarding(entries: Iterable[Dumped], names: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What bridges know of their ports, their own addresses left out."""
    for entry in entries:
        index, state, flags = struct.unpack_from("=4xiHB", entry.head)
        if not flags & _NTF_SELF and not state & _NUD_PERMANENT:
            yield names.get(index, ""), entry.mac(2)


def _tunnels(
    entries: Iterable[Dumped], names: dict[int, str], forwarding: frozenset[tuple[str, str]]
) -> Iterator[KernelObject]:
    alone = {item for item in forwarding if item[0].startswith(VXLAN_PREFIX)}
    for entry in entries:
        (index,) = struct.unpack_from("=4xi", entry.head)
        name, mac, vtep = names.get(index, ""), entry.mac(2), entry.address(1)
        if name.startswith(VXLAN_PREFIX) and vtep:
            via = names.get(entry.number(8), "")
            yield Tunnel(name, mac, vtep, complete=(name, mac) in forwarding, via=via)
            alone.discard((name, mac))
    for name, mac in alone:
        yield Tunnel(name, mac, _NOWHERE, complete=False)


def _neighbors(names: dict[int, str]) -> Iterator[KernelObject]:
    for entry in rtnetlink.dump(rtnetlink.GET_NEIGHBORS, AF_INET):
        index, state = struct.unpack_from("=4xiH", entry.head)
        name, address = names.get(index, ""), entry.address(1)
        if name.startswith(BRIDGE_PREFIX) and state & _NUD_PERMANENT and address:
            yield Neighbor(name, address, entry.mac(2))
