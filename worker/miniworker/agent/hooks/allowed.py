"""The hook for what a container may have of its node: nothing that the node's owner has not allowed.

Whoever may create services decides nothing here: the list comes from the node's own command line.
"""

from __future__ import annotations

from minicommon.errors import PermissionDeniedError
from minicommon.grants import required
from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.agent.hooks.api import Prepared


class AllowedHook:
    """Refuses a task that wants more than the node allows."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed

    async def wait_ready(self, task: dispatch.AssignedTask) -> None:
        return

    async def prepare(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared:
        missing = [grant for grant in required(task.spec.container) if grant not in self._allowed]
        if missing:
            raise PermissionDeniedError(
                f"this node does not allow {', '.join(missing)}: "
                f"start its mini-worker with --allow {','.join(missing)}"
            )
        return prepared

    async def change(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared | None:
        return None

    async def cleanup(self, task_id: str) -> None:
        return
