"""From the agent's message to a zone. Only what has changed since the last one is read again. Pure.

A network may have thousands of tasks, and each change of one brings the whole table: so services are kept by
themselves, and a network is put together from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2

from miniworker.ingress.dns.zone import TASK_TTL, VIRTUAL_TTL, Client, Found, NetworkNames, Pointer, Zone

SHORT_ID = 12
"""Characters: Docker's short ids, which are also host names."""

_ServiceKey = tuple[str, str, str]
"""Network, service, name."""


@dataclass(frozen=True, slots=True)
class ServiceNames:
    """What one service brings to a network."""

    names: Mapping[str, Found]
    """Lower case."""
    pointers: Mapping[IPv4Address, Pointer]


@dataclass(frozen=True, slots=True)
class Reading:
    """A zone and what it was read from."""

    zone: Zone = field(default_factory=Zone)
    networks: Mapping[str, tuple[dispatch.AssignedNetwork, tuple[ServiceNames, ...]]] = field(
        default_factory=dict
    )
    services: Mapping[_ServiceKey, tuple[dispatch.NetworkService, ServiceNames]] = field(default_factory=dict)


def read_table(message: ingress_pb2.DnsTable, before: Reading) -> Reading:
    """Raises InvalidArgumentError naming the field."""
    services: dict[_ServiceKey, tuple[dispatch.NetworkService, ServiceNames]] = {}
    parts: dict[str, list[ServiceNames]] = {item.id: [] for item in message.networks}
    for item in message.services:
        if item.network_id not in parts:
            raise InvalidArgumentError(
                f"dns.services.network_id: must be one of dns.networks, got {item.network_id!r}"
            )
        key = (item.network_id, item.service_id, item.name)
        known = before.services.get(key)
        services[key] = known if known and known[0] == item else (item, _read_service(item))
        parts[item.network_id].append(services[key][1])
    sources = {item.id: (item, tuple(parts[item.id])) for item in message.networks}
    networks = {
        key: before.zone.networks[key] if _same(before.networks.get(key), source) else _read_network(*source)
        for key, source in sources.items()
    }
    return Reading(Zone(networks, _read_clients(message.clients, networks)), sources, services)


def _same(
    before: tuple[dispatch.AssignedNetwork, tuple[ServiceNames, ...]] | None,
    now: tuple[dispatch.AssignedNetwork, tuple[ServiceNames, ...]],
) -> bool:
    """Services that have not changed are the same objects."""
    return (
        before is not None
        and before[0] == now[0]
        and len(before[1]) == len(now[1])
        and all(map(lambda one, other: one is other, before[1], now[1]))
    )


def _read_clients(
    items: Iterable[ingress_pb2.DnsClient], networks: Mapping[str, NetworkNames]
) -> dict[str, Client]:
    """By address; the last to name one has it."""
    clients: dict[str, Client] = {}
    for item in items:
        for key in item.network_ids:
            if key not in networks:
                raise InvalidArgumentError(
                    f"dns.clients.network_ids: must be of dns.networks, got {key!r} for task {item.task_id}"
                )
        own = tuple(networks[key] for key in item.network_ids)
        client = Client(item.task_id, own, tuple(item.nameservers))
        clients.update(dict.fromkeys(item.addresses, client))
    return clients


def _read_network(item: dispatch.AssignedNetwork, services: Iterable[ServiceNames]) -> NetworkNames:
    names: dict[str, Found] = {}
    pointers: dict[IPv4Address, Pointer] = {}
    for service in services:
        if names.keys().isdisjoint(service.names):
            names.update(service.names)
        else:
            for name, found in service.names.items():
                _add(names, name, found)
        pointers.update(service.pointers)
    try:
        subnet, gateway = IPv4Network(item.subnet), IPv4Address(item.gateway)
    except ValueError as error:
        raise InvalidArgumentError(f"dns.networks: network {item.name}: {error}") from error
    return NetworkNames(
        item.id, item.name.lower(), subnet, gateway, internal=item.internal, names=names, pointers=pointers
    )


def _read_service(item: dispatch.NetworkService) -> ServiceNames:
    names: dict[str, Found] = {}
    pointers: dict[IPv4Address, Pointer] = {}
    try:
        tasks = Found(tuple(IPv4Address(backend.address) for backend in item.backends), TASK_TTL)
        virtual = IPv4Address(item.virtual_address) if item.virtual_address else None
    except ValueError as error:
        raise InvalidArgumentError(f"dns.services: service {item.name}: {error}") from error
    target = tasks
    if virtual is not None:
        target = Found((virtual,), VIRTUAL_TTL)
        pointers[virtual] = Pointer(item.name, VIRTUAL_TTL)
    for name in {item.name, *item.aliases}:
        _add(names, name.lower(), target)
        _add(names, f"tasks.{name}".lower(), tasks)
    for backend, address in zip(item.backends, tasks.addresses, strict=True):
        pointers[address] = Pointer(backend.container_name, TASK_TTL)
        found = Found((address,), TASK_TTL)
        for name in backend_names(item.name, backend):
            _add(names, name.lower(), found)
    return ServiceNames(names, pointers)


def backend_names(service: str, backend: dispatch.ServiceBackend) -> set[str]:
    """What a task is called: `web.1.<task id>`, `web.1`, `1.web`, and the start of its id."""
    task = backend.container_name.removesuffix(f".{backend.task_id}")
    names = {backend.container_name, task, backend.task_id[:SHORT_ID]}
    if (slot := task.removeprefix(f"{service}.")) != task:
        names.add(f"{slot}.{service}")
    return names - {""}


def _add(names: dict[str, Found], name: str, found: Found) -> None:
    """A name that several have means all of them."""
    if (present := names.get(name)) is None:
        names[name] = found
    elif added := tuple(address for address in found.addresses if address not in present.addresses):
        names[name] = Found(present.addresses + added, min(present.ttl, found.ttl))
