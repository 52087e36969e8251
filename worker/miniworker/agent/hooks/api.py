"""The law of hooks.

- `wait_ready` waits for what `prepare` needs from elsewhere. It changes nothing and may be broken off at any moment.
- `prepare` runs before the container is created, in the order of the list, and returns the configuration with what it
  adds. It may run again for the same task, after a crash halfway too, and then gives the same answer.
- `change` runs while the container lives, when what `prepare` gave it may be out of date. Again: nothing to change. It
  may wait, and be broken off.
- `cleanup` runs once the container has ended, in the reverse order. It must work without `prepare` having run, may run
  any number of times, and needs nothing but the task's id. Every hook's cleanup runs, whatever the others raise; the
  errors are gathered and the whole is tried again.
- A hook keeps nothing about a task that it cannot find again after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.network.api import HostPort
from miniworker.runtime.api import ContainerConfig


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the hooks have made of a task so far."""

    config: ContainerConfig
    host_ports: tuple[HostPort, ...] = ()


class TaskHook(Protocol):
    """One thing that a task needs besides its container."""

    async def wait_ready(self, task: dispatch.AssignedTask) -> None:
        """Return once `prepare` has what it needs."""

    async def prepare(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared:
        """Make it ready. Raises MiniError: the task is rejected with that text."""

    async def change(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared | None:
        """Give the living container what the task has now; None: it has it. Raises MiniError: it is tried again."""

    async def cleanup(self, task_id: str) -> None:
        """Give it back. Unknown: nothing. Raises MiniError when it should be tried again."""
