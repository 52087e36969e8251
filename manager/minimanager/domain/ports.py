"""Published ports: which numbers are taken, by whom, and which free ones are given out.

An ingress port is one for the whole cluster and protocol, so it also excludes a host port of that number on any node.
Two services may publish the same host port: the scheduler keeps their tasks on different nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from minicommon.errors import AlreadyExistsError, ResourceExhaustedError

from minimanager.domain.objects import PortConfig, PortProtocol, PublishMode, Service

FIRST_DYNAMIC_PORT, LAST_DYNAMIC_PORT = 30_000, 32_767
"""Published port 0 becomes one of these (swarmkit `manager/allocator/portallocator.go`)."""

PortKey = tuple[PortProtocol, int]


@dataclass(frozen=True, slots=True)
class Owner:
    """The service that has a port, and how."""

    service_id: str
    service_name: str
    publish_mode: PublishMode


def owners(services: Iterable[Service]) -> dict[PortKey, Owner]:
    """Who has which port. Services that are being removed have none any more; an ingress owner hides a host one."""
    found: dict[PortKey, Owner] = {}
    for service in services:
        if service.removing:
            continue
        for port in service.ports:
            key = (port.protocol, port.published_port)
            present = found.get(key)
            if port.published_port and (present is None or port.publish_mode is PublishMode.INGRESS):
                found[key] = Owner(service.id, service.spec.name, port.publish_mode)
    return found


def publish(
    ports: tuple[PortConfig, ...],
    taken: dict[PortKey, Owner],
    *,
    service_id: str = "",
    before: tuple[PortConfig, ...] = (),
) -> tuple[PortConfig, ...]:
    """The ports of a service's specification with a number for each ingress port.

    `service_id` and `before` are the service and its present ports, when there are some: a port that it has already is
    no conflict, and where it asked for any it keeps the number that it got. A host port of 0 stays: the node chooses.
    Raises AlreadyExistsError with the name of the service that has a port, ResourceExhaustedError when none is left.
    """
    others = {key: owner for key, owner in taken.items() if owner.service_id != service_id}
    for port in ports:
        _check_free(port, others)
    used = set(others) | {(port.protocol, port.published_port) for port in ports if port.published_port}
    kept = list(before)
    result: list[PortConfig] = []
    for port in ports:
        if port.published_port == 0 and port.publish_mode is PublishMode.INGRESS:
            port = _choose(port, used, kept)
            used.add((port.protocol, port.published_port))
        result.append(port)
    return tuple(result)


def _check_free(port: PortConfig, others: dict[PortKey, Owner]) -> None:
    owner = others.get((port.protocol, port.published_port))
    if owner is None or port.published_port == 0:
        return
    if port.publish_mode is PublishMode.HOST and owner.publish_mode is PublishMode.HOST:
        return
    how = "an ingress port" if owner.publish_mode is PublishMode.INGRESS else "a host-published port"
    raise AlreadyExistsError(
        f"port '{port.published_port}' is already in use by service '{owner.service_name}' "
        f"({owner.service_id}) as {how}"
    )


def _choose(port: PortConfig, used: set[PortKey], kept: list[PortConfig]) -> PortConfig:
    """The number that the service has for this already, else the lowest free one."""
    for old in kept:
        same = (old.protocol, old.target_port, old.publish_mode) == (
            port.protocol,
            port.target_port,
            port.publish_mode,
        )
        if same and (old.protocol, old.published_port) not in used:
            kept.remove(old)
            return replace(port, published_port=old.published_port)
    for number in _dynamic():
        if (port.protocol, number) not in used:
            return replace(port, published_port=number)
    raise ResourceExhaustedError(
        f"no free {port.protocol.name.lower()} port in {FIRST_DYNAMIC_PORT}-{LAST_DYNAMIC_PORT} to publish "
        f"port {port.target_port} on"
    )


def _dynamic() -> Iterator[int]:
    return iter(range(FIRST_DYNAMIC_PORT, LAST_DYNAMIC_PORT + 1))
