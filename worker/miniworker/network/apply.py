"""Carries out operations over netlink.

An object that is there already, or gone already, is what was asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

from pyroute2 import IPRoute, NetlinkError

from miniworker.network.errors import NetworkError
from miniworker.network.model import (
    Bridge,
    KernelObject,
    LinkAddress,
    Neighbor,
    Operation,
    Tunnel,
    Vxlan,
)
from miniworker.network.namespaces import write_sysctl

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

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH})


class Applier:
    """Knows interfaces by their names while it works; use one per round."""

    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink
        self._indexes: dict[str, int] = {}

    def apply(self, operations: Iterable[Operation]) -> None:
        """Raises NetworkError naming the first operation that failed; what came before it is done."""
        for operation in operations:
            try:
                if operation.add:
                    self._add(operation.item)
                else:
                    self._remove(operation.item)
            except NetlinkError as error:
                verb = "make" if operation.add else "remove"
                raise NetworkError(f"cannot {verb} {operation.item}: {error.args[1]}") from error

    def _add(self, item: KernelObject) -> None:
        try:
            self._create(item)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise

    def _create(self, item: KernelObject) -> None:
        netlink = self._netlink
        match item:
            case Bridge(name, mac, mtu):
                netlink.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu)
                disable_ipv6(name)
                set_local_bridge(name)
                netlink.link("set", index=self._index(name), state="up")
            case Vxlan():
                self._create_vxlan(item)
            case LinkAddress(link, address, prefix):
                netlink.addr("add", index=self._index(link), address=str(address), prefixlen=prefix)
            case Tunnel(link, mac, vtep):
                index = self._index(link)
                netlink.fdb(
                    "replace", ifindex=index, lladdr=mac, dst=str(vtep), state=_FIXED, flags=_NTF_SELF
                )
                netlink.fdb("replace", ifindex=index, lladdr=mac, state=_FIXED, flags=_NTF_MASTER)
            case Neighbor(link, address, mac):
                netlink.neigh(
                    "replace", ifindex=self._index(link), dst=str(address), lladdr=mac, state=_NUD_PERMANENT
                )
            case _:
                assert_never(item)

    def _create_vxlan(self, item: Vxlan) -> None:
        self._netlink.link(
            "add",
            ifname=item.name,
            kind="vxlan",
            mtu=item.mtu,
            vxlan_id=item.vni,
            vxlan_local=str(item.local),
            vxlan_port=item.port,
            vxlan_learning=0,
        )
        disable_ipv6(item.name)
        index = self._index(item.name)
        self._netlink.link("set", index=index, master=self._index(item.bridge))
        self._netlink.brport("set", index=index, **_TUNNEL_PORT)
        self._netlink.link("set", index=index, state="up")

    def _remove(self, item: KernelObject) -> None:
        try:
            self._delete(item)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise

    def _delete(self, item: KernelObject) -> None:
        netlink = self._netlink
        match item:
            case Bridge(name) | Vxlan(name):
                netlink.link("del", index=self._index(name))
                del self._indexes[name]
            case LinkAddress(link, address, prefix):
                netlink.addr("del", index=self._index(link), address=str(address), prefixlen=prefix)
            case Tunnel(link, mac, vtep):
                index = self._index(link)
                netlink.fdb("del", ifindex=index, lladdr=mac, dst=str(vtep), state=_FIXED, flags=_NTF_SELF)
                # Last: the bridge may know the address behind another port by now, which is not an error.
                netlink.fdb("del", ifindex=index, lladdr=mac, state=_FIXED, flags=_NTF_MASTER)
            case Neighbor(link, address):
                netlink.neigh("del", ifindex=self._index(link), dst=str(address))
            case _:
                assert_never(item)

    def _index(self, name: str) -> int:
        if name not in self._indexes:
            self._indexes[name] = index_of(self._netlink, name)
        return self._indexes[name]


def index_of(netlink: IPRoute, name: str) -> int:
    """The number of an interface. Raises NetlinkError(ENODEV) when there is none."""
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise NetlinkError(errno.ENODEV, f"no interface {name}")
    return int(found[0])


def add_local_forwarding(netlink: IPRoute, index: int, mac: str) -> None:
    """Tell a bridge that `mac` is behind its port `index`."""
    netlink.fdb("replace", ifindex=index, lladdr=mac, state=_NUD_NOARP, flags=_NTF_MASTER)


def set_local_bridge(name: str) -> None:
    """Options of a bridge that tasks send through.

    Routing from 127.0.0.1 lets `curl localhost:<host port>` reach a task; our rules drop what comes from a task to
    127.0.0.0/8. A task on the ingress network sends with its address there, whichever bridge it leaves through:
    loose filtering (2) lets it, also where the host's default is strict.
    """
    write_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
    write_sysctl(f"ipv4/conf/{name}/rp_filter", "2")


def disable_ipv6(name: str) -> None:
    """Our own devices speak IPv4 only; without this each would announce itself with IPv6 multicasts."""
    if Path(f"/proc/sys/net/ipv6/conf/{name}").exists():
        write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
