"""What uses a network: the services that are to be on it, and the tasks of others that still run there.

A container of `minictl run` that has ended lets go of its networks, though it stays until it is removed.
"""

from __future__ import annotations

from minimanager.domain.names import container_name
from minimanager.domain.objects import Network, Service, Task, TaskState
from minimanager.domain.one_off import one_off
from minimanager.domain.snapshot import Snapshot


def services_on(snapshot: Snapshot, network: Network) -> list[Service]:
    """The services whose tasks are to be on the network, by name.

    Those that are being removed and containers that have ended do not count.
    """
    found = [
        service
        for service in snapshot.services.values()
        if not service.removing
        and any(use.network == network.id for use in service.spec.task.networks)
        and not _has_ended(snapshot, service)
    ]
    return sorted(found, key=lambda service: service.spec.name)


def tasks_on(snapshot: Snapshot, network: Network) -> list[Task]:
    """The tasks that have an address on the network and have not ended, by name."""
    found = [task for task in snapshot.of_network(network.id).values() if not snapshot.state(task).finished]
    return sorted(found, key=lambda task: (task.service_name, task.slot, task.id))


def in_use_by(snapshot: Snapshot, network: Network) -> str:
    """What keeps the network from being removed, in words; empty: nothing does."""
    users = services_on(snapshot, network)
    services = [service.spec.name for service in users if one_off(service) is None]
    containers = [service.spec.name for service in users if one_off(service) is not None]
    if users:
        return " and ".join(filter(None, (_named("service", services), _named("container", containers))))
    tasks = [task for task in tasks_on(snapshot, network) if _stays(snapshot, task)]
    return f"task {container_name(tasks[0])}" if tasks else ""


def _named(kind: str, names: list[str]) -> str:
    return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""


def _has_ended(snapshot: Snapshot, service: Service) -> bool:
    """Whether this is a container of its own that has run."""
    tasks = snapshot.of_service(service.id).values()
    return (
        one_off(service) is not None and bool(tasks) and all(snapshot.state(task).finished for task in tasks)
    )


def _stays(snapshot: Snapshot, task: Task) -> bool:
    """Whether the task is to run on. That of a service that is being removed is not, even before it is told so."""
    service = snapshot.services.get(task.service_id)
    return task.desired_state < TaskState.SHUTDOWN and service is not None and not service.removing
