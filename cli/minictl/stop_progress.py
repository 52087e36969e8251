"""How long each step of a stop took, told once for each task that is stopped while somebody watches. Pure."""

from __future__ import annotations

from minicommon import units

from minictl.progress import Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.control_pb2 import ServiceProgress, TaskView

_MILLISECOND = 1_000_000
"""Nanoseconds."""


class StopTimes:
    """Follows one service. Tasks that had been stopped when the watch began are not told of."""

    def __init__(self) -> None:
        self._seen: set[str] | None = None

    def update(self, view: ServiceProgress) -> list[Line]:
        """The service or one of its tasks changed."""
        seen, self._seen = self._seen, {task.task.id for task in view.stopped}
        if seen is None:
            return []
        return [Line("", stop_text(task)) for task in view.stopped if task.task.id not in seen]


def stop_text(view: TaskView) -> str:
    """`web.2 stopped: removed from tables at revision 8, acknowledged after 9ms, drained after ...`."""
    task, stop = view.task, view.status.stop
    name = f"{task.service_name}.{task.bound_node_id or task.slot}"
    acknowledged = "not acknowledged by all nodes, given up" if stop.unacknowledged else "acknowledged"
    plural = "s" if stop.open_connections > 1 else ""
    left = f", {stop.open_connections} connection{plural} left" if stop.open_connections else ""
    return (
        f"{name} stopped: removed from tables at revision {task.meta.version}, "
        f"{acknowledged} after {_between(stop.told_at_ns, stop.withdrawn_at_ns)}, "
        f"drained after {_between(stop.withdrawn_at_ns, stop.drained_at_ns)}{left}, "
        f"stopped after {_between(stop.drained_at_ns, view.status.state_since_ns)}"
    )


def _between(began_ns: int, ended_ns: int) -> str:
    return units.format_duration(max(ended_ns - began_ns, 0) // _MILLISECOND * _MILLISECOND)
