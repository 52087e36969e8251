"""What a service has that its specification only asks for: port numbers, and addresses of its own."""

from __future__ import annotations

from dataclasses import dataclass

from minimanager.domain.leases import virtual_addresses
from minimanager.domain.objects import PortConfig, Service, ServiceSpec, VirtualAddress
from minimanager.domain.ports import owners, publish
from minimanager.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Belongings:
    """`ports` are those of the specification with a number for each ingress port."""

    ports: tuple[PortConfig, ...] = ()
    virtual_addresses: tuple[VirtualAddress, ...] = ()


def belongings(snapshot: Snapshot, spec: ServiceSpec, service: Service | None = None) -> Belongings:
    """What goes with `spec`; `service` keeps what it has.

    Raises AlreadyExistsError, naming the service that has a port, NotFoundError for a network that is gone, and
    ResourceExhaustedError when there is no port or address left.
    """
    taken = owners(snapshot.services.values())
    if service is None:
        ports = publish(spec.ports, taken)
    else:
        ports = publish(spec.ports, taken, service_id=service.id, before=service.ports)
    return Belongings(ports, virtual_addresses(snapshot, spec, service))
