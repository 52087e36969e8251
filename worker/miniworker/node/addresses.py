"""Which of the machine's addresses the other nodes are to use. Messages are Docker's."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from minicommon.errors import InvalidArgumentError, UnavailableError

_OWN_PREFIXES = ("mbr-", "mvx-", "mini_", "veth", "docker", "br-")
"""Interfaces that container software makes: never the one to advertise."""

_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    interface: str
    address: str


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """The machine's IPv4 addresses, loopback excluded, and the interface of its default route."""

    addresses: tuple[InterfaceAddress, ...]
    default_interface: str = ""

    def has(self, address: str) -> bool:
        return IPv4Address(address).is_loopback or any(item.address == address for item in self.addresses)


async def host_addresses() -> HostAddresses:
    """What `ip` tells of this machine. Raises UnavailableError when it cannot be run."""
    links, routes = await asyncio.gather(
        _ip("-4", "address", "show", "up"), _ip("-4", "route", "show", "default")
    )
    addresses = tuple(
        InterfaceAddress(link["ifname"], info["local"])
        for link in links
        for info in link.get("addr_info", ())
        if info.get("scope") != "host"
    )
    return HostAddresses(addresses, routes[0].get("dev", "") if routes else "")


def split_port(text: str, *, field: str) -> tuple[str, int | None]:
    """`host[:port]` in its parts. Raises InvalidArgumentError, naming `field`."""
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, None
    if not host or not port.isdigit() or not 0 < int(port) <= _HIGHEST_PORT:
        raise InvalidArgumentError(f"{field}: expected ADDRESS[:PORT] with a port of 1-65535, got {text!r}")
    return host, int(port)


def choose_advertised(given: str, host: HostAddresses) -> str:
    """The IPv4 address to advertise: `given` as an address or an interface, else the machine's only one.

    Raises InvalidArgumentError.
    """
    if not given:
        return _only(_candidates(host))
    try:
        address = str(IPv4Address(given))
    except ValueError:
        return _of_interface(given, host)
    if IPv4Address(address).is_unspecified:
        raise InvalidArgumentError(
            "advertise address must be a non-zero IP address or network interface (with optional port number)"
        )
    return address


def _of_interface(name: str, host: HostAddresses) -> str:
    found = [item for item in host.addresses if item.interface == name]
    if not found:
        raise InvalidArgumentError(
            f"advertise address {name!r} is neither an IPv4 address nor a network interface with one; "
            f"this machine has {_listed(host)}"
        )
    if len(found) > 1:
        raise InvalidArgumentError(
            f"interface {name} has more than one IPv4 address ({found[0].address} and {found[1].address})"
        )
    return found[0].address


def _candidates(host: HostAddresses) -> list[InterfaceAddress]:
    """Those of the default route's interface; without such a route those of every real interface."""
    return [
        item
        for item in host.addresses
        if item.interface == host.default_interface
        or (not host.default_interface and not item.interface.startswith(_OWN_PREFIXES))
    ]


def _only(found: list[InterfaceAddress]) -> str:
    if not found:
        raise InvalidArgumentError(
            "could not find the system's IP address - specify one with --advertise-addr"
        )
    if len(found) == 1:
        return found[0].address
    first, second = found[0], found[1]
    where = (
        f"on interface {first.interface} ({first.address} and {second.address})"
        if first.interface == second.interface
        else f"on different interfaces ({first.address} on {first.interface} "
        f"and {second.address} on {second.interface})"
    )
    raise InvalidArgumentError(
        "could not choose an IP address to advertise since this system has multiple addresses "
        f"{where} - specify one with --advertise-addr"
    )


def _listed(host: HostAddresses) -> str:
    return ", ".join(f"{item.address} on {item.interface}" for item in host.addresses) or "none"


def source_address(remote: str) -> str:
    """The address that this machine uses towards `remote`. Raises UnavailableError when there is no route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, 9))  # sends nothing: it only chooses the route
            address: str = probe.getsockname()[0]
            return address
    except OSError as error:
        raise UnavailableError(f"no route to {remote}: {error.strerror}") from error


async def _ip(*args: str) -> list[dict[str, Any]]:
    try:
        process = await asyncio.create_subprocess_exec(
            "ip", "-j", *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise UnavailableError("the command `ip` (package iproute2) is not installed") from error
    output, problem = await process.communicate()
    if process.returncode:
        raise UnavailableError(f"ip {' '.join(args)} failed: {problem.decode().strip()}")
    parsed: list[dict[str, Any]] = json.loads(output or b"[]")
    return parsed
