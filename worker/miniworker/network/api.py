"""What the agent asks of the network, as values, and the `DataPlane` protocol that makes the kernel follow."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OverlayNetwork:
    id: str
    name: str
    subnet: IPv4Network
    gateway: IPv4Address
    vni: int
    mtu: int
    ingress: bool
    node_address: IPv4Address | None = None
    """This node's own address on it; ingress networks only. On the others every node has the gateway's."""
    internal: bool = False
    """No way out: its tasks reach only each other."""
    encrypted: bool = False
    """What leaves the node goes through WireGuard."""


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """An address of a network and the node behind which it lives; local ones are listed too."""

    network_id: str
    address: IPv4Address
    node_id: str
    vtep: IPv4Address
    task_id: str = ""
    """Empty: the node's own address on the ingress network."""


@dataclass(frozen=True, slots=True)
class VirtualService:
    """A service's own address on a network, and the tasks that its connections are spread over."""

    network_id: str
    service_id: str
    address: IPv4Address
    backends: tuple[IPv4Address, ...]
    """Sorted; empty: connections are refused."""


@dataclass(frozen=True, slots=True)
class EncryptionPeer:
    """Another node with encrypted networks, and its WireGuard public key in base64."""

    node_id: str
    vtep: IPv4Address
    public_key: str


@dataclass(frozen=True, slots=True)
class Attachment:
    network_id: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node itself that leads to one task here (`mode=host`)."""

    protocol: str
    """"tcp" or "udp"."""
    published_port: int
    """0: the data plane chooses one of 32768-60999 that is free."""
    target_port: int
    host_ip: IPv4Address | None = None
    """The only address of the node that leads there; None: all of them."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The network namespace of one task."""

    task_id: str
    attachments: tuple[Attachment, ...]
    host_ports: tuple[HostPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Fabric:
    """What is common to all tasks of the node: the networks in use here and who is where on them."""

    node_id: str
    data_path_address: IPv4Address
    networks: tuple[OverlayNetwork, ...] = ()
    endpoints: tuple[RemoteEndpoint, ...] = ()
    services: tuple[VirtualService, ...] = ()
    peers: tuple[EncryptionPeer, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachedSandbox:
    netns: Path
    host_ports: tuple[HostPort, ...]
    """With every published port chosen."""
    hosts_address: IPv4Address | None
    """The address that stands for the container in its own /etc/hosts."""
    nameserver: IPv4Address | None = None
    """Who answers for the names of the task's networks: the gateway of the first; None: it is on no such network."""


@dataclass(frozen=True, slots=True)
class Connections:
    """TCP connections that others have opened to a task."""

    open: int = 0
    closing: int = 0
    """Ended by the task, but the other side has not got everything yet."""


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """Something in which the kernel is not as planned."""

    kind: str
    """"bridge", "tunnel device", "address", "forwarding entry", "neighbor entry", "interface", "route", "rules" or
    "forwarding"."""
    task_id: str
    """In the namespace of this task; empty: in the node's own."""
    item: str
    """For people: "10.0.1.1/24 on mbr-9qv2cn8t"."""
    missing: bool
    """It should be there; False: it should not."""


class DataPlane(Protocol):
    """Level-triggered: state what should be, and the kernel follows. Raises `network.errors.NetworkError`."""

    async def set_fabric(self, fabric: Fabric) -> None:
        """Make bridges, VXLAN devices, forwarding and neighbor entries and return routes equal to this."""

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        """Make the task's namespace with its interfaces and addresses. Again: the same answer.

        Raises PortInUseError when a host port is taken.
        """

    async def reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        """Lead a living sandbox to other networks; what stays is not touched. None: it is as it should be, or not
        there.

        Raises UnknownNetworkError for a network that the fabric does not have yet.
        """

    async def open_socket(self, task_id: str) -> socket.socket:
        """A TCP socket inside the task's namespace, not connected and not blocking."""

    async def connections(self, task_id: str) -> Connections:
        """Those there are now; none when there is no such sandbox."""

    async def detach(self, task_id: str) -> None:
        """Remove the task's namespace and host ports. Unknown: nothing."""

    async def adopt(self, task_ids: frozenset[str]) -> None:
        """After a restart: keep the sandboxes of these tasks and remove all others that are ours."""

    async def verify(self) -> tuple[Difference, ...]:
        """Compare all of the plan with the kernel, and change nothing."""

    async def repair(self) -> tuple[Difference, ...]:
        """Make equal what differs; what that was. While nobody has changed anything, this is cheap."""

    async def watch(self) -> None:
        """Repair from time to time; never returns."""

    @property
    def repairs(self) -> Mapping[str, int]:
        """How many differences have been repaired, by kind."""

    async def clear(self) -> None:
        """Remove everything of ours from the kernel: the node leaves the cluster."""
