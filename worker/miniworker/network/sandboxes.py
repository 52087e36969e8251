"""Sandboxes in the kernel: made, read back, given new return paths, removed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from socket import AF_INET

from pyroute2 import IPRoute, NetlinkError

from miniworker.network import nft
from miniworker.network.apply import TASK_PORT, add_local_forwarding, disable_ipv6, index_of
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
from miniworker.network.sandbox_plan import Interface, SandboxPlan

_RULE_PRIORITY = 100
"""Before the main table's 32766."""

_MAX_ATTACHMENTS = 64
"""Interfaces looked for when a sandbox is removed; a port's index starts at 0 and has no gaps."""


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


def make_sandbox(host: IPRoute, path: Path, plan: SandboxPlan) -> None:
    """Make a namespace and everything in it. Nothing is left when it fails. Raises NetworkError."""
    with _netlink_errors(f"cannot make the sandbox {path.name}"):
        try:
            in_new_namespace(path, _prepare)
            with path.open() as namespace:
                for interface in plan.interfaces:
                    _connect(host, interface, namespace.fileno())
            in_namespace(path, lambda: _configure(plan))
        except BaseException:
            _remove_ports(host, [interface.port for interface in plan.interfaces])
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


def remove_sandbox(host: IPRoute, path: Path) -> None:
    """Remove the namespace's name and its connections. Unknown: nothing."""
    with _netlink_errors(f"cannot remove the sandbox {path.name}"):
        _remove_ports(host, [gateway_port_name(path.name)])
        for index in range(_MAX_ATTACHMENTS):
            if not _remove_ports(host, [port_name(path.name, index)]):
                break
        remove_namespace(path)


def set_returns(path: Path, paths: frozenset[ReturnPath]) -> None:
    """Make a sandbox' return paths equal to `paths`."""

    def inside() -> None:
        with IPRoute() as own:
            _update_returns(own, paths)

    with _netlink_errors(f"cannot set the return paths of the sandbox {path.name}"):
        in_namespace(path, inside)


def reconnect(host: IPRoute, interface: Interface) -> None:
    """Make the host's end a port of its bridge, which may have been replaced."""
    with _netlink_errors(f"cannot connect {interface.port} to {interface.bridge}"):
        _set_port(host, interface)


def _connect(host: IPRoute, interface: Interface, namespace: int) -> None:
    host.link(
        "add",
        ifname=interface.port,
        kind="veth",
        mtu=interface.mtu,
        peer={
            "ifname": interface.name,
            "address": interface.mac,
            "mtu": interface.mtu,
            "net_ns_fd": namespace,
        },
    )
    disable_ipv6(interface.port)
    _set_port(host, interface)


def _set_port(host: IPRoute, interface: Interface) -> None:
    index = index_of(host, interface.port)
    host.link("set", index=index, master=index_of(host, interface.bridge), state="up")
    if interface.overlay:
        host.brport("set", index=index, **TASK_PORT)
        add_local_forwarding(host, index, interface.mac)
    else:
        host.brport("set", index=index, isolated=1)


def _prepare() -> None:
    # A client's address is reached another way than the one its packets came: strict filtering would drop them.
    write_sysctl("ipv4/conf/all/rp_filter", "0")
    write_sysctl("ipv4/conf/default/rp_filter", "0")
    # ARP on each interface in the name of that interface's own address.
    write_sysctl("ipv4/conf/all/arp_announce", "2")


def _configure(plan: SandboxPlan) -> None:
    with IPRoute() as own:
        own.link("set", index=1, state="up")
        for interface in plan.interfaces:
            disable_ipv6(interface.name)
            index = index_of(own, interface.name)
            own.addr("add", index=index, address=str(interface.address), prefixlen=interface.prefix)
            own.link("set", index=index, state="up")
        _update_returns(own, plan.returns)
        own.route("add", dst="default", gateway=str(plan.gateway), prefsrc=str(plan.source))


def _update_returns(own: IPRoute, wanted: frozenset[ReturnPath]) -> None:
    observed = _observe_returns(own)
    keep = {(path.mark, path.address) for path in wanted}
    for mark, address in observed - keep:
        own.rule("del", priority=_RULE_PRIORITY, fwmark=mark, table=mark)
        own.route("del", dst="default", gateway=str(address), table=mark)
    missing = [path for path in wanted if (path.mark, path.address) not in observed]
    if missing:
        index = index_of(own, INTERFACE)
    for path in missing:
        own.route("replace", dst="default", gateway=str(path.address), oif=index, table=path.mark)
        own.rule("add", priority=_RULE_PRIORITY, fwmark=path.mark, table=path.mark)
    if wanted or observed:
        nft.run_script(sandbox_rules(wanted))


def _observe_returns(own: IPRoute) -> set[tuple[int, IPv4Address]]:
    """(mark, address) of the paths that have both their rule and their route."""
    marks = {int(rule.get_attr("FRA_FWMARK") or 0) for rule in own.get_rules(family=AF_INET)}
    return {
        (table, IPv4Address(route.get_attr("RTA_GATEWAY")))
        for route in own.get_routes(family=AF_INET)
        if (table := int(route.get_attr("RTA_TABLE") or 0)) > MARK_BASE and table in marks
    }


def _remove_ports(host: IPRoute, ports: list[str]) -> int:
    """Remove these devices, and their peers with them; how many there were."""
    found = [int(index) for port in ports for index in host.link_lookup(ifname=port)]
    for index in found:
        try:
            host.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
    return len(found)


@contextmanager
def _netlink_errors(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(
            f"{what}: {error.args[1] if len(error.args) > 1 else os.strerror(error.code)}"
        ) from error
