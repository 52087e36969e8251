"""Sandboxes in the kernel: made, read back, given new virtual addresses, mended, removed."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from socket import AF_INET

from miniworker.network import nfnetlink, rtnetlink
from miniworker.network.apply import (
    GONE,
    TASK_PORT,
    disable_ipv6,
    index_of,
    local_forwarding,
    neighbor_requests,
    permanent_neighbor,
)
from miniworker.network.conntrack import forget_udp_backend
from miniworker.network.names import gateway_port_name, mac_of, port_name
from miniworker.network.namespaces import (
    in_namespace,
    in_new_namespace,
    is_namespace,
    remove_namespace,
    write_sysctl,
)
from miniworker.network.observe import read_addresses, read_links
from miniworker.network.rtnetlink import Request
from miniworker.network.sandbox_plan import Interface, SandboxPlan
from miniworker.network.sandbox_tables import (
    INGRESS_INTERFACE,
    NOBODY,
    change_vips,
    new_tables,
    removed_tables,
    replaced_tables,
)
from miniworker.network.vips import Vip, VipDelta, removed_backends

RETURN_TABLE = 0x10000
"""The routing table of answers: above the kernel's own (253 to 255) and those that people choose."""

_MAIN_TABLE = 254

_RULE_PRIORITY = 100
"""Before the main table's 32766."""

_MAX_ATTACHMENTS = 64
"""Interfaces looked for when a sandbox is removed; one that has changed its networks may have gaps in their numbers."""

_LOOPBACK = 1
"""Its index in every namespace."""

_LEAVING = 0x6D696E69
"""The device group of those about to be removed; no device is in it for longer."""

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
    complete: bool = True
    """Its making was not interrupted: the loopback interface, which comes up last, is up."""
    gateways: frozenset[IPv4Address] = frozenset()
    """Of default routes of the main table."""
    answers_via: IPv4Address | None = None
    """Of the routing table of answers, when there is also the rule that leads to it."""

    def has(self, address: IPv4Address) -> bool:
        return any(address == item for _, item in self.addresses)

    def local_address(self, subnet: IPv4Network) -> IPv4Address | None:
        """On the local bridge, which has this subnet; None: there is no way out."""
        return next((address for _, address in self.addresses if address in subnet), None)


def make_sandbox(path: Path, plan: SandboxPlan) -> int:
    """Make a namespace and everything in it; the generation of its rules.

    Nothing is left when it fails. Raises NetworkError.
    """
    try:
        in_new_namespace(path, _prepare)
        with path.open() as namespace:
            _connect(plan.interfaces, namespace.fileno())
        return in_namespace(path, lambda: _configure(plan))
    except BaseException:
        remove_links(interface.port for interface in plan.interfaces)
        remove_namespace(path)
        raise


def find_sandbox(path: Path) -> FoundSandbox | None:
    """What is kept at `path`; None when no namespace is."""
    return in_namespace(path, look_inside) if is_namespace(path) else None


def look_inside() -> FoundSandbox:
    """The sandbox that the calling thread is in."""
    links = {link.index: link for link in read_links()}
    addresses = frozenset(
        (links[index].name, address)
        for index, address, _ in read_addresses()
        if index in links and links[index].name.startswith("eth")
    )
    marked = any(item.number(15) == RETURN_TABLE for item in rtnetlink.dump(rtnetlink.GET_RULES, AF_INET))
    gateways = set()
    answers_via = None
    for route in rtnetlink.dump(rtnetlink.GET_ROUTES, AF_INET):
        table, gateway = route.number(15), route.address(5)
        if route.head[1] or gateway is None:  # the length of its destination: only default routes
            continue
        if table == _MAIN_TABLE:
            gateways.add(gateway)
        elif table == RETURN_TABLE and marked:
            answers_via = gateway
    complete = _LOOPBACK in links and links[_LOOPBACK].up
    return FoundSandbox(addresses, complete, frozenset(gateways), answers_via)


def ports_of_task(task_id: str) -> list[str]:
    """The host's ends of a task's interfaces that exist."""
    names = [gateway_port_name(task_id), *(port_name(task_id, index) for index in range(_MAX_ATTACHMENTS))]
    return [name for name in names if _exists(name)]


def remove_links(names: Iterable[str]) -> None:
    """Remove these devices of the host's namespace, and their peers with them. Not there: nothing.

    The kernel waits some 15 ms until nobody uses a device any more. Those of a group go together, with one such wait.
    """
    indexes = [socket.if_nametoindex(name) for name in names if _exists(name)]
    if indexes:
        into = [rtnetlink.set_group(index, _LEAVING, accepted=GONE) for index in indexes]
        rtnetlink.send([*into, rtnetlink.delete_group(_LEAVING, accepted=GONE)])


def set_vips(path: Path, old: Iterable[Vip], new: Iterable[Vip]) -> tuple[int, int]:
    """Lead a sandbox from some virtual addresses to others; the generations of its rules before and after.

    Connections go on, but a udp flow to a backend that is gone would keep going there for as long as its task talks.
    """
    old, new = tuple(old), tuple(new)

    def inside() -> tuple[int, int]:
        before = nfnetlink.generation()
        nfnetlink.commit(change_vips(VipDelta.of(old, new)))
        after = nfnetlink.generation()
        for address, backend in removed_backends(old, new, nobody=NOBODY):
            forget_udp_backend(address, backend)
        return before, after

    return in_namespace(path, inside)


def mend(path: Path, plan: SandboxPlan) -> int:
    """Make a sandbox that exists equal to the plan, whatever of it is missing; the generation of its rules.

    What a task itself has added stays, other than in our own tables.
    """
    missing = [item for item in plan.interfaces if not _exists(item.port)]
    with path.open() as namespace:
        _connect(missing, namespace.fileno())
    reconnect(item for item in plan.interfaces if item not in missing)

    def inside() -> int:
        rtnetlink.send(_inner_requests(plan))
        if plan.attachments:
            nfnetlink.commit(replaced_tables(plan.vips, ingress=plan.answers_via is not None))
        else:
            nfnetlink.commit(removed_tables())
        return nfnetlink.generation()

    return in_namespace(path, inside)


def reconnect(interfaces: Iterable[Interface]) -> None:
    """Make the host's ends ports of their bridges, which may have been replaced."""
    requests: list[Request] = []
    for item in interfaces:
        index = index_of(item.port)
        requests += [rtnetlink.set_master(index, index_of(item.bridge)), *_port_requests(item, index)]
    rtnetlink.send(requests)


def _connect(interfaces: Sequence[Interface], namespace: int) -> None:
    """Make the pairs of devices; `namespace` is a descriptor of the one that gets the other ends."""
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


def _configure(plan: SandboxPlan) -> int:
    *requests, last = _inner_requests(plan)
    rtnetlink.send(requests)
    if plan.attachments:
        nfnetlink.commit(new_tables(plan.vips, ingress=plan.answers_via is not None))
    rtnetlink.send([last])
    return nfnetlink.generation()


def _inner_requests(plan: SandboxPlan) -> list[Request]:
    """Whatever of it is there already stays. The last one says that all is done."""
    requests: list[Request] = []
    for interface in plan.interfaces:
        index = index_of(interface.name)
        requests.append(rtnetlink.add_address(index, interface.address, interface.prefix))
        requests.append(rtnetlink.set_up(index))
    if plan.answers_via is not None:
        requests += _answer_requests(plan.answers_via)
    if plan.gateway is not None:
        requests.append(rtnetlink.put_default_route(plan.gateway, source=plan.source))
    return [*requests, rtnetlink.set_up(_LOOPBACK)]


def _answer_requests(gateway: IPv4Address) -> list[Request]:
    """Marked packets leave by the ingress network; whom they go to there is said by the mark, at the very end."""
    index = index_of(INGRESS_INTERFACE)
    return [
        permanent_neighbor(index, gateway, mac_of(gateway)),
        rtnetlink.put_default_route(gateway, table=RETURN_TABLE, index=index),
        rtnetlink.add_marked_rule(RETURN_TABLE, priority=_RULE_PRIORITY),
    ]


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
