"""What the kernel should hold for a fabric: pure.

Each overlay network is a bridge and a tunnel device. Every address of the network has a known place, so nothing is
learned and nothing flooded: addresses on other nodes have a forwarding entry in the tunnel device, and all have a
permanent neighbor entry on the bridge, from which the node routes and the bridge answers the tasks' ARP requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from miniworker.network.api import Fabric, OverlayNetwork, RemoteEndpoint
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
from miniworker.network.names import CARRIER, bridge_name, mac_of, vxlan_name

VXLAN_PORT = 4789
"""UDP (RFC 7348, and Swarm's default)."""

VXLAN_OVERHEAD = 50
"""Bytes that a tunnel device adds to a packet over IPv4: Ethernet 14, IPv4 20, UDP 8, VXLAN 8."""

CARRIER_MTU = 1420
"""WireGuard's own default: 1500 without its 80 bytes over IPv6 (over IPv4 it needs 60)."""


def plan(fabric: Fabric, *, vxlan_port: int = VXLAN_PORT, carrier: str = "wireguard") -> KernelState:
    """The links, addresses and entries of all the fabric's networks; `carrier`: the kind of the WireGuard interface."""
    objects: set[KernelObject] = set()
    networks = {network.id: network for network in fabric.networks}
    if any(network.encrypted for network in fabric.networks):
        objects.add(Carrier(CARRIER, carrier, carrier_mtu(fabric)))
        # Without an address of its own, an interface takes no packet for another's, whatever rp_filter says.
        objects.add(LinkAddress(CARRIER, fabric.data_path_address, 32))
    for network in fabric.networks:
        objects.update(_devices(network, fabric.data_path_address, vxlan_port))
    for endpoint in fabric.endpoints:
        if known := networks.get(endpoint.network_id):
            objects.update(_entries(known, endpoint, fabric.node_id))
    return frozenset(objects)


def carrier_mtu(fabric: Fabric) -> int:
    """What holds the tunnels of all encrypted networks."""
    inner = [network.mtu for network in fabric.networks if network.encrypted]
    return max(CARRIER_MTU, *(mtu + VXLAN_OVERHEAD for mtu in inner))


def _devices(network: OverlayNetwork, local: IPv4Address, port: int) -> Iterator[KernelObject]:
    bridge = bridge_name(network.id)
    address = (
        network.node_address or network.gateway
    )  # the gateway is on every node: nobody's frames to it travel
    yield Bridge(bridge, mac_of(address), network.mtu)
    link = CARRIER if network.encrypted else ""
    yield Vxlan(vxlan_name(network.id), bridge, network.vni, local, port, network.mtu, link=link)
    yield LinkAddress(bridge, address, network.subnet.prefixlen)


def _entries(network: OverlayNetwork, endpoint: RemoteEndpoint, node_id: str) -> Iterator[KernelObject]:
    if endpoint.address == (network.node_address or network.gateway):
        return  # the bridge itself
    mac = mac_of(endpoint.address)
    yield Neighbor(bridge_name(network.id), endpoint.address, mac)
    if endpoint.node_id != node_id:
        via = CARRIER if network.encrypted else ""
        yield Tunnel(vxlan_name(network.id), mac, endpoint.vtep, via=via)
