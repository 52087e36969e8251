"""How far the replacement of a service's tasks has come, and the revisions of its specification."""

from __future__ import annotations

from minictl import update_flags
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.control_pb2 import ServiceView
    from miniproto.v1.objects_pb2 import Revision, ServiceSpec, UpdateConfig

STATES = (
    "updating",
    "paused",
    "completed",
    "rollback_started",
    "rollback_paused",
    "rollback_completed",
)
"""Docker's names, at the places of their numbers in the API."""

PAUSED = (1, 4)
COMPLETED = (2, 5)


def configs_json(spec: ServiceSpec) -> dict[str, Any]:
    """Those that the service has."""
    found: dict[str, Any] = {}
    if spec.HasField("update"):
        found["UpdateConfig"] = update_flags.to_json(spec.update)
    if spec.HasField("rollback"):
        found["RollbackConfig"] = update_flags.to_json(spec.rollback)
    return found


def status_json(view: ServiceView) -> dict[str, Any]:
    if not view.HasField("rollout"):
        return {}
    rollout = view.rollout
    status = {"State": STATES[rollout.state], "StartedAt": common.timestamp(rollout.started_at_ns)}
    if rollout.completed_at_ns:
        status["CompletedAt"] = common.timestamp(rollout.completed_at_ns)
    return {"UpdateStatus": {**status, "Message": rollout.message}}


def pretty(view: ServiceView, now_ns: int) -> list[str]:
    """Docker's sections: the status of the last update, and how the next one is to go."""
    lines: list[str] = []
    if view.HasField("rollout"):
        rollout = view.rollout
        lines += ["UpdateStatus:", f" State:\t\t{STATES[rollout.state]}"]
        if rollout.started_at_ns:
            lines.append(f" Started:\t{_ago(rollout.started_at_ns, now_ns)}")
        if rollout.completed_at_ns:
            lines.append(f" Completed:\t{_ago(rollout.completed_at_ns, now_ns)}")
        lines.append(f" Message:\t{rollout.message}")
    spec = view.service.spec
    if spec.HasField("update"):
        lines += _config("Update", spec.update)
    if spec.HasField("rollback"):
        lines += _config("Rollback", spec.rollback)
    return lines


def _ago(moment_ns: int, now_ns: int) -> str:
    from minicommon import units

    return f"{units.human_duration(max(now_ns - moment_ns, 0))} ago"


def _config(title: str, config: UpdateConfig) -> list[str]:
    from minicommon import units

    from minictl.progress import MONITOR_NS

    lines = [f"{title}Config:", f" Parallelism:\t{config.parallelism}"]
    if config.delay_ns:
        lines.append(f" Delay:\t\t{units.format_duration(config.delay_ns)}")
    lines.append(f" On failure:\t{update_flags.ACTIONS[config.failure_action]}")
    lines.append(f" Monitoring Period: {units.format_duration(config.monitor_ns or MONITOR_NS)}")
    lines.append(f" Max failure ratio: {config.max_failure_millionths / 1e6:g}")
    order = update_flags.ORDERS[config.order]
    lines.append(f" {title} order:      {order}" if title == "Update" else f" {title} order:    {order}")
    if config.progress_deadline_ns:
        lines.append(f" Deadline:\t{units.format_duration(config.progress_deadline_ns)}")
    return lines


def history(revisions: Iterable[Revision], now_ns: int) -> list[str]:
    """The newest first; the present one has a star."""
    from minicommon import units

    ordered = list(revisions)
    rows = [("REVISION", "CREATED", "REPLICAS", "IMAGE")]
    for revision in reversed(ordered):
        star = " *" if revision is ordered[-1] else ""
        age = units.human_duration(max(now_ns - revision.created_at_ns, 0))
        image = common.familiar_image(revision.spec.task.container.image)
        rows.append((f"{revision.number}{star}", f"{age} ago", str(revision.spec.replicas), image))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["   ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
