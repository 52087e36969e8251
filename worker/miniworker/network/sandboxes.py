"""Sandboxes in the kernel: made, read back, given new return paths, removed."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from socket import AF_INET

from pyroute2 import IPRoute, NetlinkError

from miniworker.network import nft, rtnetlink
from miniworker.network.apply import (
    GONE,
    TASK_PORT,
    disable_ipv6,
    index_of,
    local_forwarding,
    neighbor_requests,
)
from miniworker.network.errors import NetworkError
from miniworker.network.model import ReturnPath
from miniworker.network.names import gateway_port_name, port_name
from miniworker.network.namespaces import (
    in_namespace,
    in_new_namespace,
    is_namespace,
    remove_namespace,
    write_sysctl,
)
from miniworker.network.plan import MARK_BASE
from miniworker.network.returns import INTERFACE, sandbox_rules
from miniworker.network.rtnetlink import Request
from miniworker.network.sandbox_plan import Interface, SandboxPlan

_RULE_PRIORITY = 100
"""Before the main table's 32766."""

_MAX_ATTACHMENTS = 64
"""Interfaces looked for when a sandbox is removed; a port's index starts at 0 and has no gaps."""

_LOOPBACK = 1
"""Its index in every namespace."""

_LEAVING = 0x6D696E69
"""The device group of those about to be removed; no device is in it for longer."""

_EXISTS = frozenset({errno.EEXIST})

_SETTINGS = {
    # A client's address is reached another way than the one its packets came: any filtering would drop them.
    "rp_filter": "0",
    # ARP on each interface in the name of that interface's own address, and an answer to whoever asks for one.
    "arp_announce": "2",
    "arp_ignore": "0",
    "arp_filter": "0",
    # The way back is told by the mark alone.
    "accept_redirects": "0",
}
""""all" and "default" of a sandbox' own IPv4 settings, whatever the host's are."""


@dataclass(frozen=True, slots=True)
class FoundSandbox:
    """A sandbox read back from the kernel."""

    addresses: frozenset[tuple[str, IPv4Address]]
    gateway: IPv4Address | None
    """The default route: made last, so None is a sandbox whose making was interrupted."""

    def has(self, address: IPv4Address) -> bool:
        return any(address == item for _, item in self.addresses)

    @property
    def local_address(self) -> IPv4Address | None:
        """On the local bridge: that of the last interface."""
        numbered = [(int(name.removeprefix("eth")), address) for name, address in self.addresses]
        return max(numbered)[1] if numbered else None


def make_sandbox(path: Path, plan: SandboxPlan) -> None:
    """Make a namespace and everything in it. Nothing is left when it fails. Raises NetworkError."""
    try:
        in_new_namespace(path, _prepare)
        with path.open() as namespace:
            _connect(plan.interfaces, namespace.fileno())
        in_namespace(path, lambda: _configure(plan))
    except BaseException:
        remove_links(interface.port for interface in plan.interfaces)
        remove_namespace(path)
        raise


def find_sandbox(path: Path) -> FoundSandbox | None:
    """What is kept at `path`; None when no namespace is."""
    if not is_namespace(path):
        return None

    def inside() -> FoundSandbox:
        with IPRoute() as own:
            names = {int(link["index"]): str(link.get_attr("IFLA_IFNAME")) for link in own.get_links()}
            addresses = frozenset(
                (names[int(item["index"])], IPv4Address(item.get_attr("IFA_ADDRESS")))
                for item in own.get_addr(family=AF_INET)
                if names[int(item["index"])].startswith("eth")
            )
            routes = own.get_routes(family=AF_INET, dst_len=0, table=254)
            gateways = [route.get_attr("RTA_GATEWAY") for route in routes]
            return FoundSandbox(addresses, IPv4Address(gateways[0]) if gateways else None)

    with _netlink_errors(f"cannot look into the sandbox {path.name}"):
        return in_namespace(path, inside)


def ports_of_task(task_id: str) -> list[str]:
    """The host's ends of a task's interfaces that exist."""
    names = [gateway_port_name(task_id)]
    for index in range(_MAX_ATTACHMENTS):
        name = port_name(task_id, index)
        if not _exists(name):
            break
        names.append(name)
    return [name for name in names if _exists(name)]


def remove_links(names: Iterable[str]) -> None:
    """Remove these devices of the host's namespace, and their peers with them. Not there: nothing.

    The kernel waits some 15 ms until nobody uses a device any more. Those of a group go together, with one such wait.
    """
    indexes = [socket.if_nametoindex(name) for name in names if _exists(name)]
    if indexes:
        into = [rtnetlink.set_group(index, _LEAVING, accepted=GONE) for index in indexes]
        rtnetlink.send([*into, rtnetlink.delete_group(_LEAVING, accepted=GONE)])


def set_returns(path: Path, paths: frozenset[ReturnPath]) -> None:
    """Make a sandbox' return paths equal to `paths`."""

    def inside() -> None:
        with IPRoute() as own:
            _update_returns(own, paths)

    with _netlink_errors(f"cannot set the return paths of the sandbox {path.name}"):
        in_namespace(path, inside)


def reconnect(interface: Interface) -> None:
    """Make the host's end a port of its bridge, which may have been replaced."""
    index = index_of(interface.port)
    rtnetlink.send(
        [rtnetlink.set_master(index, index_of(interface.bridge)), *_port_requests(interface, index)]
    )


def _connect(interfaces: Iterable[Interface], namespace: int) -> None:
    """Make the pairs of devices; `namespace` is a descriptor of the one that gets the other ends."""
    interfaces = tuple(interfaces)
    rtnetlink.send(
        [
            rtnetlink.add_veth(
                item.port,
                bridge=index_of(item.bridge),
                mtu=item.mtu,
                peer=item.name,
                peer_mac=item.mac,
                namespace=namespace,
            )
            for item in interfaces
        ]
    )
    for item in interfaces:
        disable_ipv6(item.port)
    requests = [request for item in interfaces for request in _port_requests(item, index_of(item.port))]
    # The node reaches the task from now on, not only when the fabric that names it has come.
    known = neighbor_requests(item.neighbor for item in interfaces if item.overlay)
    rtnetlink.send([*requests, *known])


def _port_requests(interface: Interface, index: int) -> list[Request]:
    if not interface.overlay:
        return [rtnetlink.set_bridge_port(index, {"isolated": 1}), rtnetlink.set_up(index)]
    return [
        rtnetlink.set_bridge_port(index, TASK_PORT),
        rtnetlink.set_up(index),
        local_forwarding(index, interface.mac),
    ]


def _prepare() -> None:
    """What the interfaces to come take over; the namespace has copied its settings from the machine's first one."""
    for name, value in _SETTINGS.items():
        write_sysctl(f"ipv4/conf/all/{name}", value)
        write_sysctl(f"ipv4/conf/default/{name}", value)
    disable_ipv6("default")


def _configure(plan: SandboxPlan) -> None:
    requests = [rtnetlink.set_up(_LOOPBACK)]
    for interface in plan.interfaces:
        index = index_of(interface.name)
        requests.append(rtnetlink.add_address(index, interface.address, interface.prefix))
        requests.append(rtnetlink.set_up(index))
    rtnetlink.send(requests)
    if plan.returns:
        rtnetlink.send(_new_returns(plan.returns))
        nft.run_script(sandbox_rules(plan.returns, new=True))
    rtnetlink.send([rtnetlink.put_default_route(plan.gateway, source=plan.source)])


def _update_returns(own: IPRoute, wanted: frozenset[ReturnPath]) -> None:
    observed = _observe_returns(own)
    keep = {(path.mark, path.address) for path in wanted}
    requests: list[Request] = []
    for mark, address in sorted(observed - keep):
        requests.append(rtnetlink.delete_mark_rule(mark, priority=_RULE_PRIORITY, accepted=GONE))
        requests.append(rtnetlink.delete_default_route(address, table=mark, accepted=GONE))
    requests += _new_returns(path for path in wanted if (path.mark, path.address) not in observed)
    rtnetlink.send(requests)
    if wanted or observed:
        nft.run_script(sandbox_rules(wanted, new=False))


def _new_returns(paths: Iterable[ReturnPath]) -> list[Request]:
    index = index_of(INTERFACE)
    requests: list[Request] = []
    for path in sorted(paths):
        requests.append(rtnetlink.put_default_route(path.address, table=path.mark, index=index))
        requests.append(rtnetlink.add_mark_rule(path.mark, priority=_RULE_PRIORITY, accepted=_EXISTS))
    return requests


def _observe_returns(own: IPRoute) -> set[tuple[int, IPv4Address]]:
    """(mark, address) of the paths that have both their rule and their route."""
    marks = {int(rule.get_attr("FRA_FWMARK") or 0) for rule in own.get_rules(family=AF_INET)}
    return {
        (table, IPv4Address(route.get_attr("RTA_GATEWAY")))
        for route in own.get_routes(family=AF_INET)
        if (table := int(route.get_attr("RTA_TABLE") or 0)) > MARK_BASE and table in marks
    }


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


@contextmanager
def _netlink_errors(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(
            f"{what}: {error.args[1] if len(error.args) > 1 else os.strerror(error.code)}"
        ) from error
