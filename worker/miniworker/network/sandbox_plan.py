"""What a task's namespace should hold: pure.

Interfaces are numbered in the order of the attachments, the ingress network first; the last one is the way out of the
node, and the default route. A task that is on internal networks only has no way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import count

from miniworker.network.api import Attachment, Fabric, OverlayNetwork, Sandbox, VirtualService
from miniworker.network.errors import UnknownNetworkError
from miniworker.network.gateway import gateway_of
from miniworker.network.model import Neighbor
from miniworker.network.names import GATEWAY_BRIDGE, bridge_name, gateway_port_name, mac_of, port_name
from miniworker.network.vips import Vip, vips_of

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
        """How the node itself reaches the task on an overlay network."""
        return Neighbor(self.bridge, self.address, self.mac)


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    interfaces: tuple[Interface, ...]
    attachments: tuple[Attachment, ...]
    """In the order of the interfaces."""
    gateway: IPv4Address | None
    """Of the default route; None: there is no way out."""
    source: IPv4Address | None
    """The task's own address where a socket has none: on the ingress network, if it is there. None: no way out.

    The answer of a udp server must come from the address that was asked, and most do not bind to one.
    """
    answers_via: IPv4Address | None
    """Stands for the node that a request came through. None: the task is not on the ingress network."""
    nameserver: IPv4Address | None
    vips: frozenset[Vip]

    @property
    def addresses(self) -> frozenset[tuple[str, IPv4Address]]:
        """(interface, address): what tells whether a sandbox found in the kernel is this one."""
        return frozenset((item.name, item.address) for item in self.interfaces)

    @property
    def hosts_address(self) -> IPv4Address:
        """The address of the task's own name: where the others on its networks know it."""
        names = [item.address for item in self.interfaces if item.overlay]
        if self.answers_via is not None:
            names = [*names[1:], names[0]]
        return names[0] if names else self.interfaces[0].address


def leads_out(sandbox: Sandbox, fabric: Fabric) -> bool:
    """Whether a task has a way out of the node: unless all its networks are internal and it has no host port."""
    internal = {network.id for network in fabric.networks if network.internal}
    return (
        not sandbox.attachments
        or bool(sandbox.host_ports)
        or not all(item.network_id in internal for item in sandbox.attachments)
    )


def plan_sandbox(
    sandbox: Sandbox, fabric: Fabric, *, subnet: IPv4Network, local_address: IPv4Address | None
) -> SandboxPlan:
    """`subnet` and `local_address`: the local bridge's, and the sandbox' on it (None: no way out).

    Raises UnknownNetworkError.
    """
    networks = {network.id: network for network in fabric.networks}
    pairs = sorted(
        ((_network(item, networks), item.address) for item in sandbox.attachments),
        key=lambda pair: not pair[0].ingress,
    )
    attached = [(index, network, address) for index, (network, address) in enumerate(pairs)]
    way_out = (len(pairs), local_address) if local_address is not None else None
    return _assemble(sandbox.task_id, attached, way_out, subnet=subnet, services=fabric.services)


def plan_found(
    task_id: str, addresses: frozenset[tuple[str, IPv4Address]], fabric: Fabric, *, subnet: IPv4Network
) -> SandboxPlan:
    """The plan of a sandbox of which only (interface, address) are known: subnets never overlap.

    A network that the fabric does not name any more is left out.
    """
    numbered = sorted((int(name.removeprefix("eth")), address) for name, address in addresses)
    attached = [
        (index, network, address)
        for index, address in numbered
        for network in fabric.networks
        if address in network.subnet
    ]
    way_out = next((item for item in numbered if item[1] in subnet), None)
    return _assemble(task_id, attached, way_out, subnet=subnet, services=fabric.services)


def overlay_interfaces(
    task_id: str, addresses: frozenset[tuple[str, IPv4Address]], fabric: Fabric
) -> tuple[Interface, ...]:
    """The overlay interfaces of a sandbox of which only (interface, address) are known."""
    return tuple(
        _overlay_interface(task_id, int(name.removeprefix("eth")), network, address)
        for name, address in sorted(addresses)
        for network in fabric.networks
        if address in network.subnet
    )


def reattached(
    sandbox: Sandbox,
    addresses: frozenset[tuple[str, IPv4Address]],
    fabric: Fabric,
    *,
    subnet: IPv4Network,
    local_address: IPv4Address | None,
) -> frozenset[tuple[str, IPv4Address]]:
    """The (interface, address) that a living sandbox is to have, of which the present ones are known.

    What stays keeps its interface; what is new gets the lowest numbers that are free. `subnet` and `local_address`: the
    local bridge's, and the sandbox' on it, which may be new (None: no way out). Raises UnknownNetworkError.
    """
    networks = {network.id: network for network in fabric.networks}
    wanted = [item.address for item in sandbox.attachments]
    present = {address for _, address in addresses}
    for item in sandbox.attachments:
        if item.address not in present:
            _network(item, networks)
    if local_address is not None:
        wanted.append(local_address)
    kept = {(name, address) for name, address in addresses if address in wanted}
    names = {name for name, _ in kept}
    free = (name for index in count() if (name := f"eth{index}") not in names)
    new = [address for address in wanted if address not in present]
    return frozenset(kept | set(zip(free, new, strict=False)))


def attachments_of(
    addresses: Iterable[tuple[str, IPv4Address]], networks: Iterable[OverlayNetwork]
) -> tuple[Attachment, ...]:
    """Which networks a sandbox is on of which only (interface, address) are known."""
    networks = tuple(networks)
    return tuple(
        Attachment(network.id, address)
        for _, address in addresses
        for network in networks
        if address in network.subnet
    )


def _assemble(
    task_id: str,
    attached: Sequence[tuple[int, OverlayNetwork, IPv4Address]],
    way_out: tuple[int, IPv4Address] | None,
    *,
    subnet: IPv4Network,
    services: Iterable[VirtualService],
) -> SandboxPlan:
    interfaces = [_overlay_interface(task_id, *item) for item in attached]
    attachments = tuple(Attachment(network.id, address) for _, network, address in attached)
    ingress = [network for _, network, _ in attached if network.ingress]
    source = None
    if way_out is not None:
        index, local_address = way_out
        interfaces.append(_way_out(task_id, index, local_address, subnet))
        source = interfaces[0].address if ingress else local_address
    return SandboxPlan(
        interfaces=tuple(interfaces),
        attachments=attachments,
        gateway=gateway_of(subnet) if way_out is not None else None,
        source=source,
        answers_via=ingress[0].gateway if ingress else None,
        nameserver=next((network.gateway for _, network, _ in attached if not network.ingress), None),
        vips=vips_of(attachments, services),
    )


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


def _way_out(task_id: str, index: int, address: IPv4Address, subnet: IPv4Network) -> Interface:
    return Interface(
        name=f"eth{index}",
        port=gateway_port_name(task_id),
        bridge=GATEWAY_BRIDGE,
        address=address,
        prefix=subnet.prefixlen,
        mtu=GATEWAY_MTU,
        overlay=False,
    )


def _network(attachment: Attachment, networks: dict[str, OverlayNetwork]) -> OverlayNetwork:
    if network := networks.get(attachment.network_id):
        return network
    raise UnknownNetworkError(
        f"network {attachment.network_id}: must be one of the networks on this node, "
        f"which are {', '.join(sorted(networks)) or 'none'}"
    )
