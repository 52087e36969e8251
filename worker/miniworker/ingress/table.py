"""The table of published ports: values, and how they come out of the message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2
from miniproto.v1 import objects_pb2 as pb

PROTOCOLS = {pb.PORT_PROTOCOL_TCP: "tcp", pb.PORT_PROTOCOL_UDP: "udp"}

PROXY_PROTOCOLS = (0, 2)
"""Versions of the PROXY protocol; 0: none. Version 1 is text that has to be searched for its end."""


@dataclass(frozen=True, slots=True, order=True)
class PortKey:
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Port:
    """A published port and the addresses that may get its traffic now, sorted."""

    key: PortKey
    target_port: int
    service_name: str
    backends: tuple[IPv4Address, ...]
    """Those that this node leads to: which they are also follows from the port's locality."""
    host_ip: IPv4Address | IPv6Address | None = None
    """The only address that answers; None: all of the node's."""
    sticky: bool = False
    proxy_protocol: bool = False
    """Each connection begins with a header that tells the client's address (version 2)."""

    @property
    def in_kernel(self) -> bool:
        """Whether the kernel path can lead it: it writes no header, and the overlay has no IPv6."""
        return not self.proxy_protocol and not isinstance(self.host_ip, IPv6Address)


PortTable = dict[PortKey, Port]


def read_table(message: ingress_pb2.IngressTable) -> PortTable:
    """Raises InvalidArgumentError naming the field."""
    table: PortTable = {}
    for item in message.ports:
        port = _read_port(item, message.node_id)
        if port.key in table:
            raise InvalidArgumentError(f"ports: each may be named once, got {port.key} twice")
        table[port.key] = port
    return table


def removed_backends(before: PortTable, after: PortTable) -> dict[PortKey, tuple[IPv4Address, ...]]:
    """Who no longer gets the traffic of a port, ports that are gone or have moved to another address included."""
    removed: dict[PortKey, tuple[IPv4Address, ...]] = {}
    for key, port in before.items():
        now = after.get(key)
        left = now.backends if now and now.host_ip == port.host_ip else ()
        if gone := tuple(address for address in port.backends if address not in left):
            removed[key] = gone
    return removed


def _read_port(item: dispatch.PublishedPort, node_id: str) -> Port:
    protocol = PROTOCOLS.get(item.protocol)
    if protocol is None:
        raise InvalidArgumentError(f"protocol: must be tcp or udp, got {item.protocol}")
    for field, value in (("published_port", item.published_port), ("target_port", item.target_port)):
        if not 1 <= value <= 65535:
            raise InvalidArgumentError(f"{field}: must be 1 to 65535, got {value}")
    if item.proxy_protocol not in PROXY_PROTOCOLS:
        raise InvalidArgumentError(f"proxy_protocol: must be 2 or 0, got {item.proxy_protocol}")
    if item.proxy_protocol and protocol != "tcp":
        raise InvalidArgumentError(f"proxy_protocol: must be 0 for {protocol}, got {item.proxy_protocol}")
    try:
        backends = sorted({IPv4Address(backend.address) for backend in _local(item, node_id)})
    except AddressValueError as error:
        raise InvalidArgumentError(f"backends.address: must be an IPv4 address: {error}") from error
    return Port(
        PortKey(protocol, item.published_port),
        item.target_port,
        item.service_name,
        tuple(backends),
        host_ip=_read_host_ip(item.host_ip),
        sticky=item.sticky,
        proxy_protocol=bool(item.proxy_protocol),
    )


def _local(item: dispatch.PublishedPort, node_id: str) -> Sequence[dispatch.Backend]:
    """Those of the port's backends that a node leads to."""
    if item.locality == pb.PORT_LOCALITY_ANY:
        return item.backends
    here = [backend for backend in item.backends if backend.node_id == node_id]
    return item.backends if item.locality == pb.PORT_LOCALITY_PREFER and not here else here


def _read_host_ip(text: str) -> IPv4Address | IPv6Address | None:
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidArgumentError(f"host_ip: must be an IPv4 or IPv6 address, got {text}") from error
    return None if address.is_unspecified else address
