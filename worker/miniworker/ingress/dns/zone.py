"""Which names there are and who may ask for them: a pure function of the zone and of who asks.

The names of a network are those of Swarm: a service and its aliases (its virtual address, or in dnsrr mode its tasks),
`tasks.<service>`, and for each task its slot (`web.1`, and `1.web`), its container's name (`web.1.<task id>`) and
the first 12 characters of its id. Each also with the network's name behind it: `web.backend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from miniworker.ingress.dns.wire import is_name

VIRTUAL_TTL = 5
"""Seconds. A virtual address lives as long as its service."""

TASK_TTL = 0
"""Seconds. An address of a task may be gone at any moment, so nobody keeps it."""

_REVERSE = ".in-addr.arpa"


@dataclass(frozen=True, slots=True)
class Found:
    """A name of ours. Without addresses: it has none now, or was asked for another type."""

    addresses: tuple[IPv4Address, ...] = ()
    ttl: int = TASK_TTL
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The name of an address; `find` puts the network's behind it."""

    name: str
    ttl: int


class Absent:
    """Nobody else knows either: there is no such name."""


class Elsewhere:
    """Not one of ours: other servers may know it."""


ABSENT, ELSEWHERE = Absent(), Elsewhere()

Finding = Found | Pointer | Absent | Elsewhere


@dataclass(frozen=True, slots=True)
class NetworkNames:
    """The names of one network."""

    id: str
    name: str
    """Lower case."""
    subnet: IPv4Network
    gateway: IPv4Address
    internal: bool = False
    names: Mapping[str, Found] = field(default_factory=dict)
    pointers: Mapping[IPv4Address, Pointer] = field(default_factory=dict)
    """Without the network's name."""


@dataclass(frozen=True, slots=True)
class Client:
    """A container of this node."""

    task_id: str
    networks: tuple[NetworkNames, ...]
    """In the order in which they are searched."""
    nameservers: tuple[str, ...] = ()
    """Asked for all other names; empty: the host's."""

    @property
    def forwards(self) -> bool:
        """Whether it may ask for other names: not from internal networks only."""
        return any(not network.internal for network in self.networks)


@dataclass(frozen=True, slots=True)
class Zone:
    networks: Mapping[str, NetworkNames] = field(default_factory=dict)
    clients: Mapping[str, Client] = field(default_factory=dict)
    """By each of a client's addresses."""


def find(client: Client, name: str) -> Finding:
    """What a name (lower case, no final dot) means for a client. Its networks are searched in their order."""
    if name.endswith(_REVERSE):
        return _find_pointer(client, name)
    for network in client.networks:
        if found := network.names.get(name):
            return found
    for network in client.networks:
        bare = name.removesuffix(f".{network.name}")
        if bare != name and (found := network.names.get(bare)):
            return found
    return ELSEWHERE


def _find_pointer(client: Client, name: str) -> Finding:
    try:
        address = IPv4Address(".".join(reversed(name.removesuffix(_REVERSE).split("."))))
    except AddressValueError:
        return ELSEWHERE
    for network in client.networks:
        pointer = network.pointers.get(address)
        if pointer and is_name(name := f"{pointer.name}.{network.name}"):
            return Pointer(name, pointer.ttl)
    return ABSENT if any(address in network.subnet for network in client.networks) else ELSEWHERE
