"""What the kernel holds of ours, read over netlink."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from socket import AF_BRIDGE, AF_INET
from typing import Any

from pyroute2 import IPRoute

from miniworker.network.model import (
    Bridge,
    KernelObject,
    KernelState,
    LinkAddress,
    Neighbor,
    Tunnel,
    Vxlan,
)
from miniworker.network.names import BRIDGE_PREFIX, VXLAN_PREFIX

_NUD_PERMANENT = 0x80  # <linux/neighbour.h>


def observe(netlink: IPRoute) -> KernelState:
    """Our overlay networks as they are in the namespace of `netlink`."""
    links = {int(link["index"]): link for link in netlink.get_links()}
    names = {index: str(link.get_attr("IFLA_IFNAME")) for index, link in links.items()}
    return frozenset(
        (
            *_devices(links, names),
            *_addresses(netlink, names),
            *_tunnels(netlink, names),
            *_neighbors(netlink, names),
        )
    )


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


def _devices(links: Mapping[int, Any], names: Mapping[int, str]) -> Iterator[KernelObject]:
    for index, link in links.items():
        name, mtu = names[index], int(link.get_attr("IFLA_MTU"))
        if name.startswith(BRIDGE_PREFIX):
            yield Bridge(name, str(link.get_attr("IFLA_ADDRESS")), mtu)
        elif name.startswith(VXLAN_PREFIX):
            data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
            yield Vxlan(
                name,
                names.get(link.get_attr("IFLA_MASTER") or 0, ""),
                int(data.get_attr("IFLA_VXLAN_ID")),
                IPv4Address(data.get_attr("IFLA_VXLAN_LOCAL") or "0.0.0.0"),
                int(data.get_attr("IFLA_VXLAN_PORT")),
                mtu,
            )


def _addresses(netlink: IPRoute, names: Mapping[int, str]) -> Iterator[KernelObject]:
    for address in netlink.get_addr(family=AF_INET):
        if (name := names.get(int(address["index"]), "")).startswith(BRIDGE_PREFIX):
            yield LinkAddress(name, IPv4Address(address.get_attr("IFA_ADDRESS")), int(address["prefixlen"]))


def _tunnels(netlink: IPRoute, names: Mapping[int, str]) -> Iterator[KernelObject]:
    for entry in netlink.get_neighbours(family=AF_BRIDGE):
        name, vtep = names.get(int(entry["ifindex"]), ""), entry.get_attr("NDA_DST")
        if name.startswith(VXLAN_PREFIX) and vtep:
            yield Tunnel(name, str(entry.get_attr("NDA_LLADDR")), IPv4Address(vtep))


def _neighbors(netlink: IPRoute, names: Mapping[int, str]) -> Iterator[KernelObject]:
    for entry in netlink.get_neighbours(family=AF_INET):
        name = names.get(int(entry["ifindex"]), "")
        if name.startswith(BRIDGE_PREFIX) and int(entry["state"]) & _NUD_PERMANENT:
            yield Neighbor(name, IPv4Address(entry.get_attr("NDA_DST")), str(entry.get_attr("NDA_LLADDR")))
