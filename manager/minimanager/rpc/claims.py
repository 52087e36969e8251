"""What a specification refers to by name: other services must not have its own, and its networks must be there."""

from __future__ import annotations

from dataclasses import replace

from minicommon.errors import AlreadyExistsError, InvalidArgumentError

from minimanager.domain.objects import NetworkUse, ServiceSpec
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.requests import find_network
from minimanager.store.transaction import Transaction


def ensure_name_free(snapshot: Snapshot, name: str) -> None:
    """Raises AlreadyExistsError, in SwarmKit's words, when a service has the name."""
    if any(service.spec.name == name and not service.removing for service in snapshot.services.values()):
        raise AlreadyExistsError(f"name conflicts with an existing object: service {name} already exists")


def with_networks(snapshot: Snapshot, spec: ServiceSpec) -> ServiceSpec:
    """The specification with the ids of its networks, however they were referred to.

    Raises NotFoundError for one that there is not, and InvalidArgumentError for the ingress network (SwarmKit's words)
    and for one that is given twice.
    """
    uses: dict[str, NetworkUse] = {}
    for use in spec.task.networks:
        network = find_network(snapshot, use.network)
        if network.spec.ingress:
            raise InvalidArgumentError(
                f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"'
            )
        if network.id in uses:
            raise InvalidArgumentError(f"networks: {network.spec.name} is given twice")
        uses[network.id] = replace(use, network=network.id)
    return replace(spec, task=replace(spec.task, networks=tuple(uses.values())))


def guard_networks(transaction: Transaction, snapshot: Snapshot, spec: ServiceSpec) -> None:
    """Let the transaction fail when one of the networks changes, which it also does when its removal begins."""
    for use in spec.task.networks:
        if (network := snapshot.networks.get(use.network)) is not None:
            transaction.guard(network)
