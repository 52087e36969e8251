"""How tasks log in to the registries of their images: in memory only, for as long as the task is assigned.

It comes with the assignment and is taken out of it before anything is written to disk. So an agent that was restarted
knows only that a task needs one, and waits until its manager tells it again.
"""

from __future__ import annotations

import asyncio

from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.runtime.api import Login


class Logins:
    """By task id."""

    def __init__(self) -> None:
        self._known: dict[str, Login] = {}
        self._changed = asyncio.Event()

    def take(self, message: dispatch.Assignments) -> None:
        """Take all logins out of the message; they replace those known before."""
        for change in message.changes:
            task = change.assignment.task
            if not change.remove and change.assignment.HasField("task") and task.HasField("registry_auth"):
                self._known[task.id] = Login(task.registry_auth.username, task.registry_auth.password)
                task.ClearField("registry_auth")
        self._changed.set()
        self._changed = asyncio.Event()

    def forget(self, task_id: str) -> None:
        self._known.pop(task_id, None)

    async def of(self, task: dispatch.AssignedTask) -> Login | None:
        """The task's; None when it needs none. Waits until it is known."""
        if not task.needs_registry_auth:
            return None
        while task.id not in self._known:
            await self._changed.wait()
        return self._known[task.id]
