"""The table of published ports: values, and how they come out of the message. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2
from miniproto.v1 import objects_pb2 as pb

PROTOCOLS = {pb.PORT_PROTOCOL_TCP: "tcp", pb.PORT_PROTOCOL_UDP: "udp"}

SERVED = frozenset({"tcp", "udp"})
"""sctp has no userspace path here."""


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


PortTable = dict[PortKey, Port]


def read_table(message: ingress_pb2.IngressTable) -> PortTable:
    """Raises InvalidArgumentError naming the field."""
    table: PortTable = {}
    for item in message.ports:
        port = _read_port(item)
        if port.key in table:
            raise InvalidArgumentError(f"ports: each may be named once, got {port.key} twice")
        table[port.key] = port
    return table


def removed_backends(before: PortTable, after: PortTable) -> dict[PortKey, tuple[IPv4Address, ...]]:
    """Who no longer gets the traffic of a port, ports that are gone included."""
    removed: dict[PortKey, tuple[IPv4Address, ...]] = {}
    for key, port in before.items():
        left = after[key].backends if key in after else ()
        if gone := tuple(address for address in port.backends if address not in left):
            removed[key] = gone
    return removed


def _read_port(item: dispatch.PublishedPort) -> Port:
    protocol = PROTOCOLS.get(item.protocol)
    if protocol is None:
        raise InvalidArgumentError(f"protocol: must be tcp or udp, got {item.protocol}")
    for field, value in (("published_port", item.published_port), ("target_port", item.target_port)):
        if not 1 <= value <= 65535:
            raise InvalidArgumentError(f"{field}: must be 1 to 65535, got {value}")
    try:
        backends = sorted({IPv4Address(backend.address) for backend in item.backends})
    except AddressValueError as error:
        raise InvalidArgumentError(f"backends.address: must be an IPv4 address: {error}") from error
    return Port(PortKey(protocol, item.published_port), item.target_port, item.service_name, tuple(backends))
