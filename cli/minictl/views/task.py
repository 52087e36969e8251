"""Tasks in `service ps` and `node ps`, and as Docker's JSON."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout, is_table
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.control_pb2 import TaskView

LAYOUT = Layout(
    {
        "ID": "ID",
        "Name": "NAME",
        "Image": "IMAGE",
        "Node": "NODE",
        "DesiredState": "DESIRED STATE",
        "CurrentState": "CURRENT STATE",
        "Error": "ERROR",
        "Ports": "PORTS",
    },
    ("ID", "Name", "Image", "Node", "DesiredState", "CurrentState", "Error", "Ports"),
)

MAX_ERROR = 30
"""Characters of an error in a list, the ellipsis included."""

_READY, _STARTING, _RUNNING = 384, 448, 512
"""The states' numbers in the API."""

PREVIOUS = " \\_ "
"""Before the name of an older task of the same slot."""


def rows(
    views: Iterable[TaskView], *, now_ns: int, truncate: bool, resolve: bool, format: str = ""
) -> list[dict[str, Any]]:
    """One row per task: by name, the newest of a slot first, the older ones under it."""
    named = [(name(view, resolve=resolve), view) for view in views]
    named.sort(key=lambda pair: -pair[1].task.meta.created_at_ns)
    named.sort(key=lambda pair: common.natural_key(pair[0]))
    indent = PREVIOUS if is_table(format) else ""
    result = []
    previous = ""
    for task_name, view in named:
        shown = indent + task_name if task_name == previous else task_name
        previous = task_name
        result.append(_row(view, shown, now_ns=now_ns, truncate=truncate, resolve=resolve))
    return result


def name(view: TaskView, *, resolve: bool) -> str:
    """`<service>.<slot>`, or `<service>.<node id>` of a global one.

    The service's id is in place of its name when names are not resolved.
    """
    task = view.task
    service = task.service_name if resolve and task.service_name else task.service_id
    return f"{service}.{task.bound_node_id or task.slot}"


def _row(view: TaskView, name: str, *, now_ns: int, truncate: bool, resolve: bool) -> dict[str, Any]:
    task = view.task
    image = task.spec.container.image
    age = units.human_duration(now_ns - view.state_since_ns).lower()
    return {
        "CurrentState": f"{common.capitalized(common.state_name(view.state))}{_unready(view)} {age} ago",
        "DesiredState": common.capitalized(common.state_name(task.desired_state)),
        "Error": _error(view.error or _backoff(view, now_ns) or _check(view), truncate=truncate),
        "ID": task.id[: common.SHORT_ID] if truncate else task.id,
        "Image": common.familiar_image(image) if truncate else image,
        "Name": name,
        "Node": view.node_hostname if resolve and view.node_hostname else task.node_id,
        "Ports": common.ports_text(view.status.host_ports),
    }


def _unready(view: TaskView) -> str:
    return " (not ready)" if view.state == _RUNNING and view.status.not_ready else ""


def _check(view: TaskView) -> str:
    """What the readiness check of a task says that gets no traffic because of it."""
    up = _STARTING <= view.state <= _RUNNING
    return view.status.message if up and view.status.not_ready and "check" in view.status.message else ""


def _backoff(view: TaskView, now_ns: int) -> str:
    """When a task of a crash loop is to start: "restart 3 in 18 seconds"; "" when it is none, or has started."""
    task = view.task
    left_ns = task.not_before_ns - now_ns
    if not task.failures or task.desired_state != _READY or left_ns <= 0:
        return ""
    return f"restart {task.failures} in {units.human_duration(left_ns).lower()}"


def _error(text: str, *, truncate: bool) -> str:
    """Quoted; newlines would break the table."""
    text = text.replace("\n", " ")
    if truncate and len(text) > MAX_ERROR:
        text = text[: MAX_ERROR - 1] + "…"
    return f'"{text}"' if text else ""


def to_json(view: TaskView) -> dict[str, Any]:
    """The task as Docker's API has it."""
    from minictl.views.service import task_json

    task, status = view.task, view.status
    shown: dict[str, Any] = {
        "Timestamp": common.timestamp(view.state_since_ns),
        "State": common.state_name(view.state),
        "Message": status.message or task.message,
    }
    if view.error:
        shown["Err"] = view.error
    if view.status.not_ready and view.state == _RUNNING:
        shown["Ready"] = False
    if status.container_id:
        shown["ContainerStatus"] = {
            "ContainerID": status.container_id,
            "PID": status.pid,
            "ExitCode": status.exit_code,
        }
    shown["PortStatus"] = (
        {"Ports": [common.port_json(port) for port in status.host_ports]} if status.host_ports else {}
    )
    return {
        "ID": task.id,
        **common.meta(task.meta),
        "Labels": {},
        "Spec": task_json(task.spec),
        "ServiceID": task.service_id,
        **({"Slot": task.slot} if task.slot else {}),
        "NodeID": task.node_id,
        "Status": shown,
        "DesiredState": common.state_name(task.desired_state),
        "NetworksAttachments": [
            {"Network": {"ID": attachment.network_id}, "Addresses": [attachment.address]}
            for attachment in task.attachments
        ],
        **({"GenericResources": common.generic_json(task.resources)} if task.resources else {}),
    }
