"""Secrets and configs in lists, as Docker's JSON and in its pretty form; who has a secret; the ledger."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.objects_pb2 import Config, Secret
    from miniproto.v1.secrets_pb2 import ConfigView, LedgerRecord, SecretHolder

_AGES = {"CreatedAt": "CREATED", "UpdatedAt": "UPDATED", "Labels": "LABELS"}

LAYOUT = Layout(
    {"ID": "ID", "Name": "NAME", "Driver": "DRIVER", **_AGES, "Version": "VERSION"},
    ("ID", "Name", "Driver", "CreatedAt", "UpdatedAt"),
)
CONFIG_LAYOUT = Layout({"ID": "ID", "Name": "NAME", **_AGES}, ("ID", "Name", "CreatedAt", "UpdatedAt"))
WHO_LAYOUT = Layout(
    {"ID": "ID", "Name": "NAME", "Node": "NODE", "Version": "VERSION", "CurrentState": "CURRENT STATE"},
    ("ID", "Name", "Node", "Version", "CurrentState"),
)
AUDIT_LAYOUT = Layout(
    {
        "Number": "RECORD",
        "Time": "TIME",
        "Event": "EVENT",
        "Secret": "SECRET",
        "Version": "VERSION",
        "Task": "TASK",
        "Node": "NODE",
        "Detail": "DETAIL",
        "TaskID": "TASK ID",
        "NodeID": "NODE ID",
        "SecretID": "SECRET ID",
    },
    ("Number", "Time", "Event", "Secret", "Version", "Task", "Node", "Detail"),
    quiet="Number",
)
_EVENTS = ("delivered", "refused", "received", "removed")
"""At the place of their numbers in the API."""

_STATES = ("", "rolling", "completed", "reverting", "reverted")


def rows(secrets: Iterable[Secret], *, now_ns: int) -> list[dict[str, Any]]:
    """One row per secret, in the natural order of their names."""
    ordered = sorted(secrets, key=lambda secret: common.natural_key(secret.spec.name))
    return [{**_row(secret, now_ns), "Driver": "", "Version": str(secret.version)} for secret in ordered]


def config_rows(configs: Iterable[Config], *, now_ns: int) -> list[dict[str, Any]]:
    ordered = sorted(configs, key=lambda config: common.natural_key(config.spec.name))
    return [_row(config, now_ns) for config in ordered]


def _row(item: Secret | Config, now_ns: int) -> dict[str, Any]:
    return {
        "CreatedAt": f"{units.human_duration(now_ns - item.meta.created_at_ns)} ago",
        "ID": item.id,
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(item.spec.labels.items())),
        "Name": item.spec.name,
        "UpdatedAt": f"{units.human_duration(now_ns - item.meta.updated_at_ns)} ago",
    }


def to_json(secret: Secret) -> dict[str, Any]:
    """The secret as `docker secret inspect` prints it, and beside it what Docker has not got."""
    versions = [
        {
            "Number": version.number,
            "CreatedAt": common.timestamp(version.created_at_ns),
            "Size": version.size_bytes,
            **({"RemovedAt": common.timestamp(version.remove_at_ns)} if version.remove_at_ns else {}),
        }
        for version in secret.versions
    ]
    shown = {**_head(secret), "CurrentVersion": secret.version, "Versions": versions}
    rotation = secret.rotation
    if rotation.state:
        shown["Rotation"] = {
            "State": _STATES[rotation.state],
            "From": rotation.old_version,
            "To": rotation.new_version,
            "StartedAt": common.timestamp(rotation.started_at_ns),
            **({"EndedAt": common.timestamp(rotation.ended_at_ns)} if rotation.ended_at_ns else {}),
            **({"Message": rotation.message} if rotation.message else {}),
        }
    return shown


def config_json(view: ConfigView) -> dict[str, Any]:
    """The config as `docker config inspect` prints it: its content in base64."""
    import base64

    shown = _head(view.config)
    data = base64.b64encode(view.data).decode()
    spec = shown["Spec"]
    shown["Spec"] = {"Name": spec["Name"], "Labels": spec["Labels"], "Data": data}
    shown["Spec"].update({key: value for key, value in spec.items() if key == "Templating"})
    return shown


def _head(item: Secret | Config) -> dict[str, Any]:
    spec: dict[str, Any] = {"Name": item.spec.name, "Labels": dict(sorted(item.spec.labels.items()))}
    if item.spec.templating:
        spec["Templating"] = {"Name": item.spec.templating}
    return {"ID": item.id, **common.meta(item.meta), "Spec": spec}


def pretty(secret: Secret) -> str:
    """`secret inspect --pretty`."""
    lines = [*_pretty_head(secret), "Driver:", *_pretty_times(secret)]
    lines.append(f"Version:                {secret.version}")
    if secret.rotation.state:
        message = f" ({secret.rotation.message})" if secret.rotation.message else ""
        lines.append(f"Rotation:               {_STATES[secret.rotation.state]}{message}")
    return "\n".join(lines) + "\n"


def config_pretty(view: ConfigView) -> str:
    """`config inspect --pretty`."""
    data = view.data.decode("utf-8", "replace")
    lines = [*_pretty_head(view.config), *_pretty_times(view.config), "Data:", data]
    return "\n".join(lines) + "\n"


def _pretty_head(item: Secret | Config) -> list[str]:
    lines = [f"ID:\t\t\t{item.id}", f"Name:\t\t\t{item.spec.name}"]
    if item.spec.labels:
        lines.append("Labels:")
        lines += [
            f" - {key}={value}" if value else f" - {key}" for key, value in sorted(item.spec.labels.items())
        ]
    return lines


def _pretty_times(item: Secret | Config) -> list[str]:
    return [
        f"Created at:            \t{common.local_time(item.meta.created_at_ns)}",
        f"Updated at:            \t{common.local_time(item.meta.updated_at_ns)}",
    ]


# --- who and what ---


def holder_rows(holders: Iterable[SecretHolder], *, now_ns: int, truncate: bool) -> list[dict[str, Any]]:
    """One row per task and version."""
    ordered = sorted(holders, key=lambda holder: (common.natural_key(holder.task_name), holder.task_id))
    return [
        {
            "CurrentState": f"{common.capitalized(common.state_name(holder.state))} "
            f"{units.human_duration(now_ns - holder.state_since_ns).lower()} ago",
            "ID": holder.task_id[: common.SHORT_ID] if truncate else holder.task_id,
            "Name": holder.task_name,
            "Node": holder.hostname or holder.node_id,
            "Version": str(holder.version),
        }
        for holder in ordered
    ]


def audit_rows(
    records: Iterable[LedgerRecord], hostnames: dict[str, str], *, truncate: bool
) -> list[dict[str, Any]]:
    """One row per record, in their order."""
    return [
        {
            "Detail": _detail(record),
            "Event": _EVENTS[record.event] if record.event < len(_EVENTS) else str(record.event),
            "Node": hostnames.get(record.node_id, record.node_id),
            "NodeID": record.node_id,
            "Number": str(record.number),
            "Secret": record.secret_name or _short(record.secret_id, truncate=truncate),
            "SecretID": record.secret_id,
            "Task": record.task_name or _short(record.task_id, truncate=truncate),
            "TaskID": record.task_id,
            "Time": common.timestamp(record.at_ns),
            "Version": str(record.secret_version) if record.secret_version else "",
        }
        for record in records
    ]


def _detail(record: LedgerRecord) -> str:
    if record.delivery:
        return f"receipt for {record.delivery}"
    if record.config_id:
        return f"in config {record.config_id[: common.SHORT_ID]} {record.message}".rstrip()
    return record.message


def _short(text: str, *, truncate: bool) -> str:
    return text[: common.SHORT_ID] if truncate else text
