"""Which addresses of a network are in use, by whom, and which are given out next.

An address belongs to a task that has not given it back, to a service as its virtual address, or to a node (on the
ingress network). Tasks get theirs from the beginning of the network upwards, services from its end downwards: the
leader serves tasks, any manager services, and so they do not compete for the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from minicommon.errors import NotFoundError, ResourceExhaustedError

from minimanager.domain.addresses import AddressPool
from minimanager.domain.objects import EndpointMode, Network, Service, ServiceSpec, VirtualAddress
from minimanager.domain.snapshot import Snapshot


def task_pool(snapshot: Snapshot, network: Network) -> AddressPool:
    """The network's addresses for tasks, continued after the one that was given out last."""
    tasks = snapshot.of_network(network.id).values()
    newest = max(tasks, key=lambda task: (task.meta.created_at_ns, task.id), default=None)
    attachments = newest.attachments if newest is not None else ()
    after = next((each.address for each in attachments if each.network_id == network.id), "")
    return _pool(snapshot, network, after)


def service_pool(snapshot: Snapshot, network: Network) -> AddressPool:
    """The network's addresses for services, continued before the one that was given out last."""
    newest: tuple[int, str, str] = (-1, "", "")
    for service, address in _virtual(snapshot, network.id):
        changed_at_ns = service.revised_at_ns or service.meta.created_at_ns
        newest = max(newest, (changed_at_ns, service.id, address))
    return _pool(snapshot, network, newest[2], down=True)


def virtual_addresses(
    snapshot: Snapshot, spec: ServiceSpec, service: Service | None = None
) -> tuple[VirtualAddress, ...]:
    """An address of the service's own on each of its networks, in vip mode; `service` keeps those that it has.

    Raises NotFoundError for a network that is gone, ResourceExhaustedError, with the network's name, for one without a
    free address.
    """
    for use in spec.task.networks:
        present_network(snapshot, use.network)
    if spec.endpoint_mode is not EndpointMode.VIP:
        return ()
    kept = {each.network_id: each for each in service.virtual_addresses} if service is not None else {}
    return tuple(
        kept.get(use.network) or VirtualAddress(use.network, _new_address(snapshot, use.network))
        for use in spec.task.networks
    )


def present_network(snapshot: Snapshot, network_id: str) -> Network:
    """The network, which must not be going away. Raises NotFoundError."""
    network = snapshot.networks.get(network_id)
    if network is None:
        raise NotFoundError(f"network {network_id} not found")
    if network.removing:
        raise NotFoundError(f"network {network.spec.name} is being removed")
    return network


def used_addresses(snapshot: Snapshot, network: Network) -> Iterator[str]:
    """The addresses of the network that are given out, those of stopped tasks that still hold theirs included."""
    for task in snapshot.of_network(network.id).values():
        for each in task.attachments:
            if each.network_id == network.id:
                yield each.address
    for _, address in _virtual(snapshot, network.id):
        yield address
    if network.spec.ingress:
        yield from (node.ingress_address for node in snapshot.nodes.values() if node.ingress_address)


def _virtual(snapshot: Snapshot, network_id: str) -> Iterator[tuple[Service, str]]:
    for service in snapshot.services.values():
        if not service.removing:
            for each in service.virtual_addresses:
                if each.network_id == network_id:
                    yield service, each.address


def _new_address(snapshot: Snapshot, network_id: str) -> str:
    network = snapshot.networks[network_id]
    try:
        return str(service_pool(snapshot, network).take())
    except ResourceExhaustedError as error:
        raise ResourceExhaustedError(f"network {network.spec.name}: {error}") from error


def _pool(snapshot: Snapshot, network: Network, after: str, *, down: bool = False) -> AddressPool:
    return AddressPool(
        IPv4Network(network.subnet),
        used_addresses(snapshot, network),
        after=IPv4Address(after) if after else None,
        within=IPv4Network(network.spec.ip_range) if network.spec.ip_range else None,
        router=IPv4Address(network.gateway) if network.gateway else None,
        down=down,
    )
