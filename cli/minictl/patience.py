"""How long a wait goes on while nothing comes forward. Pure: views of the service and the time in, the end out.

The manager gives up an update at its deadline. A service that is created, scaled or started again by itself has no
update that could be given up; for these the wait has the same deadline.
"""

from __future__ import annotations

from minictl.mode_flags import JOBS
from minictl.progress import SECOND, SHUTDOWN, by_place, serves

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.control_pb2 import ServiceProgress

DEADLINE_NS = 600 * SECOND
"""Of a service without update flags: the default of --update-deadline."""


class Patience:
    """Follows one service. `wake_ns` is when it ends unless something comes forward before; None: it does not."""

    def __init__(self) -> None:
        self.wake_ns: int | None = None
        self.deadline_ns = DEADLINE_NS
        self._most = -1

    def update(self, view: ServiceProgress, now_ns: int, *, replacing: bool) -> None:
        """The service or one of its tasks changed; `replacing`: an update is under way, which the manager watches."""
        spec = view.service.service.spec
        self.deadline_ns = spec.update.progress_deadline_ns if spec.HasField("update") else DEADLINE_NS
        if replacing or not self.deadline_ns or (spec.mode in JOBS and _works(view)):
            self.wake_ns = None
            self._most = -1
            return
        running = sum(serves(view, task) for task in by_place(view).values())
        if running > self._most:
            self._most = running
            self.wake_ns = now_ns + self.deadline_ns

    def is_over(self, now_ns: int) -> bool:
        return self.wake_ns is not None and now_ns >= self.wake_ns


def _works(view: ServiceProgress) -> bool:
    """Whether a task of a job has a node and has not ended: it may take as long as it takes."""
    return any(task.task.node_id and task.state < SHUTDOWN for task in view.tasks)
