"""What a service owns beside itself: its name and its ingress ports, each a key that only one service can have."""

from __future__ import annotations

from minicommon.errors import AlreadyExistsError

from minimanager.domain.objects import PortConfig, PublishMode, Service, ServiceSpec
from minimanager.domain.ports import owners, publish
from minimanager.domain.snapshot import Snapshot
from minimanager.store.keys import Keys, Kind


def claims_of(keys: Keys, service: Service) -> frozenset[str]:
    """The claims of a service that is not being removed."""
    ports = (port for port in service.ports if port.publish_mode is PublishMode.INGRESS)
    return frozenset(
        (
            keys.name(Kind.SERVICE, service.spec.name),
            *(keys.port(port.protocol, port.published_port) for port in ports),
        )
    )


def ensure_name_free(snapshot: Snapshot, name: str) -> None:
    """Raises AlreadyExistsError, in SwarmKit's words, when a service has the name."""
    if any(service.spec.name == name and not service.removing for service in snapshot.services.values()):
        raise AlreadyExistsError(f"name conflicts with an existing object: service {name} already exists")


def published(
    snapshot: Snapshot, spec: ServiceSpec, service: Service | None = None
) -> tuple[PortConfig, ...]:
    """The ports of `spec` with their numbers; `service` keeps those that it has.

    Raises AlreadyExistsError, naming the service that has a port.
    """
    taken = owners(snapshot.services.values())
    if service is None:
        return publish(spec.ports, taken)
    return publish(spec.ports, taken, service_id=service.id, before=service.ports)
