"""Carries out operations over netlink, in the network namespace of the calling thread.

An object that is there already, or gone already, is what was asked for.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from itertools import groupby
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from miniworker.network import rtnetlink
from miniworker.network.delta import device_name, link_of
from miniworker.network.errors import NetworkError, NoInterfaceError
from miniworker.network.model import (
    Bridge,
    Carrier,
    KernelObject,
    LinkAddress,
    Neighbor,
    Operation,
    Tunnel,
    Vxlan,
)
from miniworker.network.namespaces import write_sysctl
from miniworker.network.rtnetlink import Request

_NUD_REACHABLE, _NUD_NOARP, _NUD_PERMANENT = 0x02, 0x40, 0x80  # <linux/neighbour.h>
_NTF_SELF, _NTF_MASTER = 0x02, 0x04  # <linux/neighbour.h>

_FIXED = _NUD_NOARP | _NUD_REACHABLE
"""A forwarding entry that does not age; with PERMANENT a bridge would take the frames for itself."""

_QUIET = {"learning": 0, "unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0}
"""A bridge's port on which nothing is learned, and to which nothing is flooded."""

_TUNNEL_PORT = {**_QUIET, "neigh_suppress": 1}
"""ARP requests never leave through it."""

TASK_PORT = {**_QUIET, "proxyarp": 1}
"""The bridge answers a task's ARP requests from its own neighbor entries (which NEIGH_SUPPRESS here would prevent)."""

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH})


class Applier:
    """Knows interfaces by their names while it works; use one per round."""

    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink
        self._indexes: dict[str, int] = {}

    def apply(self, operations: Iterable[Operation]) -> None:
        """Devices one by one, and what hangs on them many at once: a fabric has thousands of the latter.

        Raises NetworkError naming the first that failed; what came before it is done.
        """
        for is_device, group in groupby(operations, key=lambda item: bool(device_name(item.item))):
            if is_device:
                for operation in group:
                    self._change_device(operation)
            else:
                rtnetlink.send([request for item in group for request in self._requests(item)])

    def _change_device(self, operation: Operation) -> None:
        try:
            match operation:
                case Operation(True, Carrier() as carrier):
                    self._create_carrier(carrier)
                case Operation(True, Bridge() as bridge):
                    self._create_bridge(bridge)
                case Operation(True, Vxlan() as vxlan):
                    self._create_vxlan(vxlan)
                case _:
                    self._delete_device(device_name(operation.item))
        except NetlinkError as error:
            verb = "make" if operation.add else "remove"
            raise NetworkError(f"cannot {verb} {operation.item}: {error.args[1]}") from error

    def _create_carrier(self, item: Carrier) -> None:
        """One that a program reads stays when the program ends, and with it all that goes through it."""
        if item.kind == "tun":
            self._create(item.name, kind="tuntap", mode="tun")
        else:
            self._create(item.name, kind=item.kind)
        disable_ipv6(item.name)
        # What comes out of it is for this node, from addresses that the node itself reaches another way.
        write_sysctl(f"ipv4/conf/{item.name}/forwarding", "0")
        write_sysctl(f"ipv4/conf/{item.name}/rp_filter", "2")
        self._netlink.link("set", index=self._index(item.name), mtu=item.mtu, state="up")

    def _create_bridge(self, item: Bridge) -> None:
        self._create(item.name, kind="bridge", address=item.mac, mtu=item.mtu)
        disable_ipv6(item.name)
        set_local_bridge(item.name)
        self._netlink.link("set", index=self._index(item.name), state="up")

    def _create_vxlan(self, item: Vxlan) -> None:
        self._create(
            item.name,
            kind="vxlan",
            mtu=item.mtu,
            vxlan_id=item.vni,
            vxlan_local=str(item.local),
            vxlan_port=item.port,
            vxlan_learning=0,
            **({"vxlan_link": self._index(item.link)} if item.link else {}),
        )
        disable_ipv6(item.name)
        index = self._index(item.name)
        self._netlink.link("set", index=index, master=self._index(item.bridge))
        rtnetlink.send([rtnetlink.set_bridge_port(index, _TUNNEL_PORT), rtnetlink.set_up(index)])

    def _create(self, name: str, **options: Any) -> None:
        try:
            self._netlink.link("add", ifname=name, **options)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise

    def _delete_device(self, name: str) -> None:
        self._indexes.pop(name, None)
        try:
            self._netlink.link("del", index=index_of(name))
        except (NetlinkError, NoInterfaceError) as error:
            if isinstance(error, NetlinkError) and error.code not in GONE:
                raise

    def _requests(self, operation: Operation) -> Iterator[Request]:
        try:
            index = self._index(link_of(operation.item))
        except NoInterfaceError:
            if operation.add:
                raise
            return  # what hung on the device went with it
        if operation.add:
            yield from _additions(index, operation.item, self._via(operation.item))
        else:
            yield from _removals(index, operation.item, self._via(operation.item))

    def _via(self, item: KernelObject) -> int:
        return self._index(item.via) if isinstance(item, Tunnel) and item.via else 0

    def _index(self, name: str) -> int:
        if name not in self._indexes:
            self._indexes[name] = index_of(name)
        return self._indexes[name]


def _additions(index: int, item: KernelObject, via: int = 0) -> Iterator[Request]:
    match item:
        case LinkAddress(_, address, prefix):
            yield rtnetlink.add_address(index, address, prefix)
        case Tunnel(_, mac, vtep):
            yield rtnetlink.put_forwarding(index, mac, state=_FIXED, flags=_NTF_SELF, vtep=vtep, via=via)
            yield rtnetlink.put_forwarding(index, mac, state=_FIXED, flags=_NTF_MASTER)
        case Neighbor(_, address, mac):
            yield rtnetlink.put_neighbor(index, address, mac, state=_NUD_PERMANENT)
        case _:
            raise AssertionError(f"{item} is a device")


def _removals(index: int, item: KernelObject, via: int) -> Iterator[Request]:
    match item:
        case LinkAddress(_, address, prefix):
            yield rtnetlink.delete_address(index, address, prefix, accepted=GONE)
        case Tunnel(_, mac, vtep):
            yield rtnetlink.delete_forwarding(index, mac, flags=_NTF_SELF, vtep=vtep, via=via, accepted=GONE)
            # The bridge may know the address behind another port by now, which is not an error.
            yield rtnetlink.delete_forwarding(index, mac, flags=_NTF_MASTER, accepted=GONE)
        case Neighbor(_, address):
            yield rtnetlink.delete_neighbor(index, address, accepted=GONE)
        case _:
            raise AssertionError(f"{item} is a device")


def index_of(name: str) -> int:
    """The number of an interface in the calling thread's namespace. Raises NoInterfaceError."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise NoInterfaceError(f"there is no interface {name}") from error


def local_forwarding(index: int, mac: str) -> Request:
    """Tell a bridge that `mac` is behind its port `index`."""
    return rtnetlink.put_forwarding(index, mac, state=_NUD_NOARP, flags=_NTF_MASTER)


def permanent_neighbor(index: int, address: IPv4Address, mac: str) -> Request:
    """How `address` is reached by interface `index`; nobody is asked."""
    return rtnetlink.put_neighbor(index, address, mac, state=_NUD_PERMANENT)


def neighbor_requests(items: Iterable[Neighbor]) -> list[Request]:
    """How the node reaches these addresses. Raises NoInterfaceError."""
    return [request for item in items for request in _additions(index_of(item.link), item)]


def set_local_bridge(name: str) -> None:
    """Options of a bridge that tasks send through.

    Routing from 127.0.0.1 lets `curl localhost:<host port>` reach a task; our rules drop what comes from a task to
    127.0.0.0/8. A task on the ingress network sends with its address there, whichever bridge it leaves through:
    loose filtering (2) lets it, also where the host's default is strict. A new device takes the rest from the host's
    defaults, so what we rely on is said: it forwards and it answers ARP.
    """
    write_sysctl(f"ipv4/conf/{name}/forwarding", "1")
    write_sysctl(f"ipv4/conf/{name}/arp_ignore", "0")
    write_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
    write_sysctl(f"ipv4/conf/{name}/rp_filter", "2")


def disable_ipv6(name: str) -> None:
    """Our own devices speak IPv4 only; without this each would announce itself with IPv6 multicasts."""
    if Path(f"/proc/sys/net/ipv6/conf/{name}").exists():
        write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
