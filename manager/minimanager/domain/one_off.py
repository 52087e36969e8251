"""Containers of `minictl run`: services of one task that are nobody's service, marked by a label.

The label says which manager looks after it, whether a client is attached, and whether it is removed when it has ended
or its client has gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from minimanager.domain.objects import Service, Task
from minimanager.domain.snapshot import Snapshot

LABEL = "mini.run"
"""Lists of services leave out what has it, unless they are asked for it by `--filter label=mini.run`."""


@dataclass(frozen=True, slots=True)
class OneOff:
    manager_id: str
    """The node whose manager the client is connected to, or was."""
    run_id: str
    """By which that manager knows the client's call."""
    attached: bool
    remove: bool

    def __str__(self) -> str:
        """The label's value."""
        how = "attached" if self.attached else "detached"
        return f"{how},{'remove' if self.remove else 'keep'},{self.manager_id},{self.run_id}"


def one_off(service: Service) -> OneOff | None:
    """What the label says; None for a service that is one."""
    text = service.spec.labels.get(LABEL)
    if text is None:
        return None
    how, remove, manager_id, run_id = [*text.split(","), "", "", "", ""][:4]
    return OneOff(manager_id, run_id, attached=how == "attached", remove=remove == "remove")


def one_off_name(snapshot: Snapshot, task: Task) -> str:
    """The name that `minictl run` gave the task's container; empty for a task of a service."""
    service = snapshot.services.get(task.service_id)
    return service.spec.name if service is not None and LABEL in service.spec.labels else ""
