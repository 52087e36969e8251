"""Kernel objects as values. A plan is a set of them, an observation is a set of them, and a delta leads from one to
the other."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class Bridge:
    name: str
    mac: str
    mtu: int
    up: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Carrier:
    """The WireGuard interface; `kind` tells who encrypts: the kernel ("wireguard") or a program ("tun")."""

    name: str
    kind: str
    mtu: int
    up: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Vxlan:
    """A tunnel device that learns nothing and floods nothing; a port of `bridge`."""

    name: str
    bridge: str
    vni: int
    local: IPv4Address
    port: int
    mtu: int
    up: bool = True
    link: str = ""
    """The interface that its packets leave through; empty: as the node routes."""


@dataclass(frozen=True, slots=True, order=True)
class LinkAddress:
    link: str
    address: IPv4Address
    prefix: int


@dataclass(frozen=True, slots=True, order=True)
class Tunnel:
    """Frames for `mac` leave through the tunnel device `link` to the node at `vtep`."""

    link: str
    mac: str
    vtep: IPv4Address
    complete: bool = True
    """False: only the tunnel device or only the bridge knows it."""
    via: str = ""
    """The interface that leads to the node; empty: as routed."""


@dataclass(frozen=True, slots=True, order=True)
class Neighbor:
    """A permanent entry of a bridge: how the node itself reaches an address, and what the bridge answers ARP from."""

    link: str
    address: IPv4Address
    mac: str


KernelObject: TypeAlias = Carrier | Bridge | Vxlan | LinkAddress | Tunnel | Neighbor
KernelState: TypeAlias = frozenset[KernelObject]

EMPTY: KernelState = frozenset()


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: make the object, or take it away."""

    add: bool
    item: KernelObject
