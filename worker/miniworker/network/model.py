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
class Vxlan:
    """A tunnel device that learns nothing and floods nothing; a port of `bridge`."""

    name: str
    bridge: str
    vni: int
    local: IPv4Address
    port: int
    mtu: int
    up: bool = True


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


@dataclass(frozen=True, slots=True, order=True)
class Neighbor:
    """A permanent entry of a bridge: how the node itself reaches an address, and what the bridge answers ARP from."""

    link: str
    address: IPv4Address
    mac: str


KernelObject: TypeAlias = Bridge | Vxlan | LinkAddress | Tunnel | Neighbor
KernelState: TypeAlias = frozenset[KernelObject]

EMPTY: KernelState = frozenset()


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: make the object, or take it away."""

    add: bool
    item: KernelObject
