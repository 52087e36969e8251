"""All hooks of the agent, run in order and undone in reverse."""

from __future__ import annotations

from collections.abc import Sequence

from minicommon.errors import MiniError
from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.agent.hooks.api import Prepared, TaskHook
from miniworker.runtime.api import RuntimeFaultError


class HookChain:
    """A `TaskHook` made of several."""

    def __init__(self, hooks: Sequence[TaskHook]) -> None:
        self._hooks = tuple(hooks)

    async def wait_ready(self, task: dispatch.AssignedTask) -> None:
        for hook in self._hooks:
            await hook.wait_ready(task)

    async def prepare(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared:
        for hook in self._hooks:
            prepared = await hook.prepare(task, prepared)
        return prepared

    async def change(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared | None:
        changed: Prepared | None = None
        for hook in self._hooks:
            changed = await hook.change(task, changed or prepared) or changed
        return changed

    async def cleanup(self, task_id: str) -> None:
        """Run every cleanup. Raises one RuntimeFaultError that names what failed."""
        problems: list[str] = []
        for hook in reversed(self._hooks):
            try:
                await hook.cleanup(task_id)
            except MiniError as error:
                problems.append(error.message)
        if problems:
            raise RuntimeFaultError("; ".join(problems))
