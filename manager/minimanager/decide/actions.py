"""What a decision asks for. The committer turns actions into one guarded transaction; a loser is decided anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from minimanager.domain.objects import Rollout, Service, Task


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Write a task whose key must not exist yet, provided its service is still the one that the decision saw."""

    task: Task
    service_version: int
    """`meta.version` of the service."""


@dataclass(frozen=True, slots=True)
class UpdateTask:
    """Replace a task; `task.meta.version` is the version that the decision saw.

    Addresses that the task no longer has are given back, new ones are claimed, in the same transaction.
    """

    task: Task


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Remove a task and its status; `version` is the task's version that the decision saw."""

    task_id: str
    version: int


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Remove a service that has no tasks left, with its name, ports and addresses."""

    service_id: str
    version: int


@dataclass(frozen=True, slots=True)
class SaveRollout:
    """Write how far a rollout has come; `rollout.meta.version` is what the decision saw, 0: there was none."""

    rollout: Rollout


@dataclass(frozen=True, slots=True)
class RollBack:
    """Replace a service by what it was before; `service.meta.version` is the version that the decision saw.

    Ports and addresses that it no longer has are given back, new ones are claimed, in the same transaction.
    """

    service: Service


@dataclass(frozen=True, slots=True)
class DeleteNetwork:
    """Remove a network that nothing is on any more; `version` is the network's that the decision saw."""

    network_id: str
    version: int


NETWORKS: Final = ""
"""What stands for the networks among the ids of services to look at."""

Action = CreateTask | UpdateTask | DeleteTask | DeleteService | SaveRollout | RollBack | DeleteNetwork


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions to commit now, and when to look again even if nothing changes."""

    actions: tuple[Action, ...] = ()
    wake_at_ns: int | None = None
    """Nanoseconds since the epoch; None: only when something changes."""
