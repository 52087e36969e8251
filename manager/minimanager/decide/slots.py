"""Slots: the places of a service, and the tries that each has seen.

A replicated service has those from 1 to the number of replicas, a global one has its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from minimanager.domain.objects import PortConfig, PublishMode, Service, Task, TaskState


@dataclass(frozen=True, slots=True)
class Slot:
    """A place and its tasks, oldest first; tasks that are to be removed do not count any more."""

    number: int
    """0 in a global service."""
    tasks: tuple[Task, ...]
    node_id: str = ""
    """In a global service."""

    @property
    def newest(self) -> Task:
        return self.tasks[-1]

    @property
    def active(self) -> list[Task]:
        """The tasks that are to run, or to get ready for it."""
        return [task for task in self.tasks if is_active(task)]


def is_active(task: Task) -> bool:
    """Whether the task is to run, to an end or without one, or to get ready for it."""
    return task.desired_state < TaskState.SHUTDOWN


def is_released(task: Task) -> bool:
    """Whether the task is to run now, to an end or without one."""
    return task.desired_state in (TaskState.RUNNING, TaskState.COMPLETE)


def age(task: Task) -> tuple[int, str]:
    """Sorts tasks from the oldest to the newest."""
    return task.meta.created_at_ns, task.id


def by_slot(tasks: Iterable[Task]) -> dict[int | str, Slot]:
    """The slots of one service that have tasks, by number or node, in that order."""
    grouped: dict[tuple[int, str], list[Task]] = {}
    for task in tasks:
        if task.desired_state is not TaskState.REMOVE:
            grouped.setdefault((task.slot, task.bound_node_id), []).append(task)
    return {
        node_id or number: Slot(number, tuple(sorted(grouped[number, node_id], key=age)), node_id)
        for number, node_id in sorted(grouped)
    }


def host_ports(ports: Iterable[PortConfig]) -> tuple[PortConfig, ...]:
    """The ports that are published on the task's node only."""
    return tuple(port for port in ports if port.publish_mode is PublishMode.HOST)


def wants_ingress(ports: Iterable[PortConfig]) -> bool:
    """Whether a task with these ports needs an address on the ingress network."""
    return any(port.publish_mode is PublishMode.INGRESS for port in ports)


def is_outdated(task: Task, service: Service) -> bool:
    """Whether the service has changed so that the task must be replaced.

    Its ingress ports may change without that: they live on the nodes, not in the task.
    """
    if task.spec_version != service.spec_version:
        return True
    if task.ports is service.ports or task.ports == service.ports:
        return False
    if host_ports(task.ports) != host_ports(service.ports):
        return True
    return wants_ingress(service.ports) and not wants_ingress(task.ports)
