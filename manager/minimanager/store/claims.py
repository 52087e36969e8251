"""What a service owns beside itself, each a key that only one service can have: name, ingress ports and addresses."""

from __future__ import annotations

from minimanager.domain.objects import PublishMode, Service
from minimanager.store.keys import Keys, Kind


def claims_of(keys: Keys, service: Service) -> frozenset[str]:
    """The claims of a service that is not being removed."""
    ports = (port for port in service.ports if port.publish_mode is PublishMode.INGRESS)
    return frozenset(
        (
            keys.name(Kind.SERVICE, service.spec.name),
            *(keys.port(port.protocol, port.published_port) for port in ports if port.published_port),
            *(keys.address(each.network_id, each.address) for each in service.virtual_addresses),
        )
    )
