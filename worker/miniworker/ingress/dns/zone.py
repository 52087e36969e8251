"""Which names there are and who may ask for them: a pure function of the table and of who asks.

The names of a network are those of Swarm: a service and its aliases (its virtual address, or in dnsrr mode its tasks),
`tasks.<service>`, and for each task its slot (`web.1`, and `1.web`), its container's name (`web.1.<task id>`) and
the first 12 characters of its id. Each also with the network's name behind it: `web.backend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2

from miniworker.ingress.dns.wire import encode_name

VIRTUAL_TTL = 5
"""Seconds. A virtual address lives as long as its service."""

TASK_TTL = 0
"""Seconds. An address of a task may be gone at any moment, so nobody keeps it."""

SHORT_ID = 12
"""Characters: Docker's short ids, which are also host names."""

_REVERSE = ".in-addr.arpa"


@dataclass(frozen=True, slots=True)
class Found:
    """A name of ours. Without addresses: it has none now, or was asked for another type."""

    addresses: tuple[IPv4Address, ...] = ()
    ttl: int = TASK_TTL
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The name of an address."""

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
    sources: Mapping[str, tuple[dispatch.AssignedNetwork, tuple[dispatch.NetworkService, ...]]] = field(
        default_factory=dict
    )
    """What each network was read from: one that has not changed is not read again."""


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
        if pointer := network.pointers.get(address):
            return pointer
    return ABSENT if any(address in network.subnet for network in client.networks) else ELSEWHERE


# --- from the message ---


def read_zone(message: ingress_pb2.DnsTable, before: Zone) -> Zone:
    """Raises InvalidArgumentError naming the field."""
    services: dict[str, list[dispatch.NetworkService]] = {item.id: [] for item in message.networks}
    for service in message.services:
        if service.network_id not in services:
            raise InvalidArgumentError(
                f"dns.services.network_id: must be one of dns.networks, got {service.network_id!r}"
            )
        services[service.network_id].append(service)
    sources = {item.id: (item, tuple(services[item.id])) for item in message.networks}
    networks = {
        key: before.networks[key] if before.sources.get(key) == source else _read_network(*source)
        for key, source in sources.items()
    }
    clients = {
        address: client
        for item in message.clients
        for client in (_read_client(item, networks),)
        for address in item.addresses
    }
    return Zone(networks, clients, sources)


def _read_client(item: ingress_pb2.DnsClient, networks: Mapping[str, NetworkNames]) -> Client:
    for key in item.network_ids:
        if key not in networks:
            raise InvalidArgumentError(
                f"dns.clients.network_ids: must be of dns.networks, got {key!r} for task {item.task_id}"
            )
    return Client(item.task_id, tuple(networks[key] for key in item.network_ids), tuple(item.nameservers))


def _read_network(
    item: dispatch.AssignedNetwork, services: Iterable[dispatch.NetworkService]
) -> NetworkNames:
    names: dict[str, Found] = {}
    pointers: dict[IPv4Address, Pointer] = {}
    try:
        network = NetworkNames(
            item.id,
            item.name.lower(),
            IPv4Network(item.subnet),
            IPv4Address(item.gateway),
            item.internal,
            names,
            pointers,
        )
        for service in services:
            _enter(service, item.name, names, pointers)
    except ValueError as error:  # an address or subnet that is none
        raise InvalidArgumentError(f"dns: network {item.name}: {error}") from error
    return network


def _enter(
    service: dispatch.NetworkService,
    network: str,
    names: dict[str, Found],
    pointers: dict[IPv4Address, Pointer],
) -> None:
    tasks = Found(tuple(IPv4Address(backend.address) for backend in service.backends))
    target = tasks
    if service.virtual_address:
        virtual = IPv4Address(service.virtual_address)
        target = Found((virtual,), VIRTUAL_TTL)
        _point(pointers, virtual, Pointer(f"{service.name}.{network}", VIRTUAL_TTL))
    for name in {service.name, *service.aliases}:
        _add(names, name, target)
        _add(names, f"tasks.{name}", tasks)
    for backend, address in zip(service.backends, tasks.addresses, strict=True):
        _point(pointers, address, Pointer(f"{backend.container_name}.{network}", TASK_TTL))
        for name in backend_names(service.name, backend):
            _add(names, name, Found((address,)))


def backend_names(service: str, backend: dispatch.ServiceBackend) -> set[str]:
    """What a task is called: `web.1.<task id>`, `web.1`, `1.web`, and the start of its id."""
    task = backend.container_name.removesuffix(f".{backend.task_id}")
    names = {backend.container_name, task, backend.task_id[:SHORT_ID]}
    if (slot := task.removeprefix(f"{service}.")) != task:
        names.add(f"{slot}.{service}")
    return names - {""}


def _point(pointers: dict[IPv4Address, Pointer], address: IPv4Address, pointer: Pointer) -> None:
    with suppress(ValueError):  # a name that DNS cannot carry is no answer
        encode_name(pointer.name)
        pointers[address] = pointer


def _add(names: dict[str, Found], name: str, found: Found) -> None:
    """A name that several have means all of them."""
    key = name.lower()
    if (present := names.get(key)) is None:
        names[key] = found
    elif added := tuple(address for address in found.addresses if address not in present.addresses):
        names[key] = Found(present.addresses + added, min(present.ttl, found.ttl))
