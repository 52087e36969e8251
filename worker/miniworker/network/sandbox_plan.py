"""What a task's namespace should hold: pure.

Interfaces are numbered in the order of the attachments, the ingress network first; the last one is the way out of the
node, and the default route.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from miniworker.network.api import Attachment, Fabric, OverlayNetwork, Sandbox
from miniworker.network.errors import UnknownNetworkError
from miniworker.network.gateway import gateway_of
from miniworker.network.model import Neighbor, ReturnPath
from miniworker.network.names import GATEWAY_BRIDGE, bridge_name, gateway_port_name, mac_of, port_name
from miniworker.network.plan import return_paths

GATEWAY_MTU = 1500
"""Ethernet's; the way out has no tunnel."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a pair of devices; the other, `port`, is a port of `bridge` in the host's namespace."""

    name: str
    port: str
    bridge: str
    address: IPv4Address
    prefix: int
    mtu: int
    overlay: bool

    @property
    def mac(self) -> str:
        return mac_of(self.address)

    @property
    def neighbor(self) -> Neighbor:
        """How the node itself reaches the interface."""
        return Neighbor(self.bridge, self.address, self.mac)


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    interfaces: tuple[Interface, ...]
    gateway: IPv4Address
    source: IPv4Address
    """The task's own address where a socket has none: on the ingress network, if it is there.

    The answer of a udp server must come from the address that was asked, and most do not bind to one.
    """
    returns: frozenset[ReturnPath]
    """Empty for a task that is not on the ingress network."""

    @property
    def addresses(self) -> frozenset[tuple[str, IPv4Address]]:
        """(interface, address): what tells whether a sandbox found in the kernel is this one."""
        return frozenset((item.name, item.address) for item in self.interfaces)


def plan_sandbox(
    sandbox: Sandbox, fabric: Fabric, *, subnet: IPv4Network, local_address: IPv4Address
) -> SandboxPlan:
    """`subnet` and `local_address`: the local bridge's, and the sandbox' on it. Raises UnknownNetworkError."""
    networks = {network.id: network for network in fabric.networks}
    pairs = sorted(
        ((_network(item, networks), item) for item in sandbox.attachments),
        key=lambda pair: not pair[0].ingress,
    )
    attached = tuple(
        _overlay_interface(sandbox.task_id, index, network, item.address)
        for index, (network, item) in enumerate(pairs)
    )
    way_out = Interface(
        name=f"eth{len(pairs)}",
        port=gateway_port_name(sandbox.task_id),
        bridge=GATEWAY_BRIDGE,
        address=local_address,
        prefix=subnet.prefixlen,
        mtu=GATEWAY_MTU,
        overlay=False,
    )
    on_ingress = any(network.ingress for network, _ in pairs)
    return SandboxPlan(
        interfaces=(*attached, way_out),
        gateway=gateway_of(subnet),
        source=attached[0].address if on_ingress else local_address,
        returns=return_paths(fabric) if on_ingress else frozenset(),
    )


def overlay_interfaces(
    task_id: str, addresses: frozenset[tuple[str, IPv4Address]], fabric: Fabric
) -> tuple[Interface, ...]:
    """The overlay interfaces of a sandbox of which only (interface, address) are known: subnets never overlap."""
    return tuple(
        _overlay_interface(task_id, int(name.removeprefix("eth")), network, address)
        for name, address in sorted(addresses)
        for network in fabric.networks
        if address in network.subnet
    )


def on_ingress(addresses: frozenset[tuple[str, IPv4Address]], fabric: Fabric) -> bool:
    """Whether one of a sandbox' addresses is on the ingress network."""
    subnets = [network.subnet for network in fabric.networks if network.ingress]
    return any(address in subnet for _, address in addresses for subnet in subnets)


def _overlay_interface(task_id: str, index: int, network: OverlayNetwork, address: IPv4Address) -> Interface:
    return Interface(
        name=f"eth{index}",
        port=port_name(task_id, index),
        bridge=bridge_name(network.id),
        address=address,
        prefix=network.subnet.prefixlen,
        mtu=network.mtu,
        overlay=True,
    )


def _network(attachment: Attachment, networks: dict[str, OverlayNetwork]) -> OverlayNetwork:
    if network := networks.get(attachment.network_id):
        return network
    raise UnknownNetworkError(
        f"network {attachment.network_id}: must be one of the networks on this node, "
        f"which are {', '.join(sorted(networks)) or 'none'}"
    )
