"""What there is to say while a job runs. Pure, as `progress`: views in, lines out.

A job is over when all its tasks are done, or when those that are not are tried no more.
"""

from __future__ import annotations

from minictl.mode_flags import REPLICATED_JOB
from minictl.progress import COMPLETE, MAX_BARS, NAMES, SHORT_ID, Line, bar_line, by_place, fresh_lines
from minictl.views import mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.control_pb2 import ServiceProgress, TaskView

_STEPS = {state: step for step, state in enumerate((*NAMES, COMPLETE), start=1)}
"""As many as those of other services, so that the last bar is full."""


class JobProgress:
    """Follows one job. `converged` is final, and `failure` says then whether and why it has not succeeded."""

    def __init__(self) -> None:
        self.converged = False
        self.failure = ""
        self.wake_ns: int | None = None
        """Nothing happens by time alone."""
        self._said: dict[str, Line] = {}

    def update(self, view: ServiceProgress, now_ns: int) -> list[Line]:
        """The service or one of its tasks changed."""
        service = view.service
        total = mode.total(service)
        lines = [Line("job progress", f"{service.completed} out of {total} complete")]
        if service.service.spec.mode == REPLICATED_JOB:
            most = min(mode.concurrent(service.service.spec), total)
            lines.append(Line("active tasks", f"{service.running} out of {most} tasks"))
        lines += self._bars(view, total)
        if service.completed + service.given_up >= total:
            self.converged = True
            if service.given_up:
                self.failure = (
                    f"job failed: {service.given_up} out of {total} tasks failed and will not be tried again"
                )
            else:
                lines.append(Line("", "job complete"))
        return fresh_lines(self._said, lines)

    def tick(self, now_ns: int) -> list[Line]:
        """Time passed, which says nothing."""
        return []

    def _bars(self, view: ServiceProgress, total: int) -> list[Line]:
        if total > MAX_BARS:
            return []
        lines = (bar_line(_key(task, total), task, _STEPS) for task in by_place(view).values())
        return [line for line in lines if line is not None]


def _key(task: TaskView, total: int) -> str:
    return f"{task.task.slot}/{total}" if task.task.slot else task.task.bound_node_id[:SHORT_ID]
