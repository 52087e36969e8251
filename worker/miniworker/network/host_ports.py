"""Ports of the node that lead to one task here (`mode=host`): which number, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from miniworker.network.api import HostPort, Sandbox
from miniworker.network.errors import PortInUseError
from miniworker.network.gateway import PortForward
from miniworker.network.ports import CHOSEN_PORTS

IsFree = Callable[[HostPort, int], bool]
"""(port, number) -> whether no process of the host holds that number where the port is to answer."""


def choose_ports(
    wanted: Iterable[HostPort],
    held: Mapping[tuple[str, int], str],
    *,
    is_free: IsFree,
    holder: Callable[[str, int], str],
) -> tuple[HostPort, ...]:
    """The ports with every published number chosen.

    `held` names who has a port of ours; `holder` names the process that has one that is not free.
    Raises PortInUseError.
    """
    taken = dict(held)
    chosen: list[HostPort] = []
    for port in wanted:
        number = port.published_port or _first_free(port, taken, is_free)
        key = port.protocol, number
        who = taken.get(key) or ("" if is_free(port, number) else holder(*key))
        if who:
            raise PortInUseError(f"port {number}/{port.protocol} is in use on this node by {who}")
        taken[key] = "another port of the same task"
        chosen.append(replace(port, published_port=number))
    return tuple(chosen)


def forwards_of(ports: Iterable[HostPort], address: IPv4Address) -> frozenset[PortForward]:
    """What leads from the node's ports to a sandbox at `address` on the local bridge."""
    return frozenset(
        PortForward(port.protocol, port.published_port, address, port.target_port, port.host_ip)
        for port in ports
    )


def ports_of(
    sandbox: Sandbox, forwards: Iterable[PortForward], address: IPv4Address | None
) -> tuple[HostPort, ...] | None:
    """The sandbox' ports with the numbers they have; the inverse of `forwards_of`, in the sandbox' order.

    None when these are not exactly the ports that the address has; without an address there are none.
    """
    left = sorted((item for item in forwards if item.address == address), key=lambda item: item.key)
    found: dict[int, HostPort] = {}
    # Those with a number of their own first: a chosen one must not take theirs.
    for place, port in sorted(enumerate(sandbox.host_ports), key=lambda item: not item[1].published_port):
        match = next((item for item in left if _serves(item, port)), None)
        if match is None:
            return None
        left.remove(match)
        found[place] = replace(port, published_port=match.published_port)
    return None if left else tuple(found[place] for place in range(len(found)))


def _serves(item: PortForward, port: HostPort) -> bool:
    same = item.protocol == port.protocol and item.target_port == port.target_port
    return same and item.host_ip == port.host_ip and port.published_port in (0, item.published_port)


def _first_free(port: HostPort, taken: Mapping[tuple[str, int], str], is_free: IsFree) -> int:
    for number in CHOSEN_PORTS:
        if (port.protocol, number) not in taken and is_free(port, number):
            return number
    raise PortInUseError(
        f"no free {port.protocol} port between {CHOSEN_PORTS.start} and {CHOSEN_PORTS.stop - 1} on this node"
    )
