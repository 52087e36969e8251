"""Containers in `minictl ps`, `stats` and `top`, and as Docker's JSON."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.streams_pb2 import ContainerInfo, InspectedContainer

LAYOUT = Layout(
    {
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "Ports": "PORTS",
        "Node": "NODE",
        "Names": "NAMES",
        "CreatedAt": "CREATED AT",
        "Labels": "LABELS",
        "NodeID": "NODE ID",
        "Service": "SERVICE",
        "State": "STATE",
        "Task": "TASK",
    },
    ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Node", "Names"),
)

_COMMAND = 20
"""Characters of a command in a list, the ellipsis included."""


def rows(containers: Iterable[ContainerInfo], *, now_ns: int, truncate: bool) -> list[dict[str, Any]]:
    return [_row(each, now_ns=now_ns, truncate=truncate) for each in containers]


def _row(info: ContainerInfo, *, now_ns: int, truncate: bool) -> dict[str, Any]:
    command = info.command
    if truncate and len(command) > _COMMAND:
        command = command[: _COMMAND - 1] + "…"
    return {
        "Command": f'"{command}"',
        "CreatedAt": common.local_time(info.created_at_ns).replace(" utc", " UTC"),
        "ID": info.id[: common.SHORT_ID] if truncate else info.id,
        "Image": common.familiar_image(info.image),
        "Labels": ",".join(f"{key}={info.labels[key]}" for key in sorted(info.labels)),
        "Names": info.name,
        "Node": info.node_hostname or info.node_id,
        "NodeID": info.node_id,
        "Ports": ", ".join(_port(port) for port in info.ports),
        "RunningFor": units.human_duration(now_ns - info.created_at_ns) + " ago",
        "Service": "" if info.one_off else info.service_name,
        "State": info.status,
        "Status": status(info, now_ns),
        "Task": info.task_name,
    }


def _port(port: Any) -> str:
    from minictl.ports import PROTOCOL_NAMES

    return f"0.0.0.0:{port.published_port}->{port.target_port}/{PROTOCOL_NAMES[port.protocol]}"


def status(info: ContainerInfo, now_ns: int) -> str:
    """In Docker's words: "Up 2 minutes", "Exited (1) 3 hours ago", "Created"."""
    if info.status == "running":
        return f"Up {units.human_duration(now_ns - info.started_at_ns)}"
    if info.status == "exited":
        return f"Exited ({info.exit_code}) {units.human_duration(now_ns - info.finished_at_ns)} ago"
    return "Created"


def to_json(container: InspectedContainer) -> dict[str, Any]:
    """The container as Docker's API has it, as far as it applies, and its node."""
    info = container.info
    never = "0001-01-01T00:00:00Z"

    def moment(nanoseconds: int) -> str:
        return common.timestamp(nanoseconds) if nanoseconds else never

    return {
        "Id": info.id,
        "Created": common.timestamp(info.created_at_ns),
        "Path": container.arguments[0] if container.arguments else "",
        "Args": list(container.arguments[1:]),
        "State": {
            "Status": info.status,
            "Running": info.status == "running",
            "OOMKilled": info.oom_killed,
            "Pid": info.pid,
            "ExitCode": info.exit_code,
            "StartedAt": moment(info.started_at_ns),
            "FinishedAt": moment(info.finished_at_ns),
        },
        "Image": container.image_id,
        "Name": f"/{info.name}",
        "Node": {"ID": info.node_id, "Name": info.node_hostname},
        "Task": info.task_name,
        "Mounts": [
            {
                "Type": mount.type,
                "Source": mount.source,
                "Destination": mount.destination,
                "RW": not mount.read_only,
            }
            for mount in container.mounts
        ],
        "Config": {
            "Hostname": container.hostname,
            "User": container.user,
            "Tty": info.tty,
            "OpenStdin": info.open_stdin,
            "Env": list(container.env),
            "Cmd": list(container.arguments),
            "Image": info.image,
            "WorkingDir": container.dir,
            "Labels": {key: info.labels[key] for key in sorted(info.labels)},
        },
        "NetworkSettings": {
            "Ports": [common.port_json(port) for port in info.ports],
            "Networks": {
                attachment.network_id: {"NetworkID": attachment.network_id, "IPAddress": attachment.address}
                for attachment in info.attachments
            },
        },
    }
