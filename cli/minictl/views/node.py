"""Nodes in a list, as Docker's JSON, and in the layout of `--pretty`."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.control_pb2 import NodeView


def _id_cell(row: Any) -> str:
    return f"{row['ID']} {'*' if row['Self'] else ' '}"


LAYOUT = Layout(
    {
        "ID": "ID",
        "Self": "",
        "Hostname": "HOSTNAME",
        "Status": "STATUS",
        "Availability": "AVAILABILITY",
        "ManagerStatus": "MANAGER STATUS",
        "EngineVersion": "ENGINE VERSION",
        "TLSStatus": "TLS STATUS",
    },
    ("ID", "Hostname", "Status", "Availability", "ManagerStatus", "EngineVersion"),
    cells={"ID": _id_cell},
)


def rows(views: Iterable[NodeView], *, self_id: str) -> list[dict[str, Any]]:
    """One row per node, in the natural order of their host names."""
    ordered = sorted(views, key=lambda view: common.natural_key(view.status.description.hostname))
    return [
        {
            "Availability": common.capitalized(common.availability_name(view.node.spec.availability)),
            "EngineVersion": view.status.description.engine_version,
            "Hostname": view.status.description.hostname,
            "ID": view.node.id,
            "ManagerStatus": common.capitalized(_reachability(view)),
            "Self": view.node.id == self_id,
            "Status": common.capitalized(common.node_state_name(view.status.state)),
            "TLSStatus": view.tls_status or "Unknown",
        }
        for view in ordered
    ]


def _is_manager(view: NodeView) -> bool:
    return common.role_name(view.node.spec.role) == "manager"


def _reachability(view: NodeView) -> str:
    """ "" for workers."""
    if not _is_manager(view):
        return ""
    if view.leader:
        return "leader"
    return "reachable" if view.reachable else "unreachable"


def to_json(view: NodeView) -> dict[str, Any]:
    """The node as `docker node inspect` prints it."""
    node, status = view.node, view.status
    described = status.description
    state: dict[str, Any] = {"State": common.node_state_name(status.state)}
    if status.message:
        state["Message"] = status.message
    state["Addr"] = status.address
    engine: dict[str, Any] = {
        "EngineVersion": described.engine_version,
        **_given("Runtime", described.runtime),
        **_given("RuntimeVersion", described.runtime_version),
    }
    if described.engine_labels:
        engine["Labels"] = dict(sorted(described.engine_labels.items()))
    shown = {
        "ID": node.id,
        **common.meta(node.meta),
        "Spec": {
            **({"Name": node.spec.name} if node.spec.name else {}),
            "Labels": dict(sorted(node.spec.labels.items())),
            "Role": common.role_name(node.spec.role),
            "Availability": common.availability_name(node.spec.availability),
        },
        "Description": {
            "Hostname": described.hostname,
            "Platform": {"Architecture": described.architecture, "OS": described.os},
            "Resources": {
                "NanoCPUs": described.resources.nano_cpus,
                "MemoryBytes": described.resources.memory_bytes,
                **_given("GenericResources", common.generic_json(described.generic_resources)),
            },
            "Engine": engine,
            **_given("Allowed", list(described.allowed)),
        },
        "Status": state,
    }
    if _is_manager(view):
        manager: dict[str, Any] = {"Leader": True} if view.leader else {}
        manager["Reachability"] = "reachable" if view.reachable else "unreachable"
        manager["Addr"] = status.manager_address
        shown["ManagerStatus"] = manager
    return shown


def pretty(view: NodeView) -> str:
    """`node inspect --pretty`."""
    node, status = view.node, view.status
    described = status.description
    lines = [f"ID:\t\t\t{node.id}"]
    if node.spec.name:
        lines.append(f"Name:\t\t\t{node.spec.name}")
    if node.spec.labels:
        lines += ["Labels:", *_labels(node.spec.labels)]
    lines += [
        f"Hostname:              \t{described.hostname}",
        f"Joined at:             \t{common.local_time(node.meta.created_at_ns)}",
        "Status:",
        f" State:\t\t\t{common.capitalized(common.node_state_name(status.state))}",
    ]
    if status.message:
        lines.append(f" Message:              \t{common.capitalized(status.message)}")
    lines.append(
        f" Availability:         \t{common.capitalized(common.availability_name(node.spec.availability))}"
    )
    if status.address:
        lines.append(f" Address:\t\t{status.address}")
    if _is_manager(view):
        lines += [
            "Manager Status:",
            f" Address:\t\t{status.manager_address}",
            f" Raft Status:\t\t{'Reachable' if view.reachable else 'Unreachable'}",
            f" Leader:\t\t{'Yes' if view.leader else 'No'}",
        ]
    lines += [
        "Platform:",
        f" Operating System:\t{described.os}",
        f" Architecture:\t\t{described.architecture}",
        "Resources:",
        f" CPUs:\t\t\t{described.resources.nano_cpus // units.SECOND}",
        f" Memory:\t\t{units.bytes_size(described.resources.memory_bytes)}",
        *(
            [f" Generic:\t\t{common.generic_text(generic)}"]
            if (generic := described.generic_resources)
            else []
        ),
        f"Engine Version:\t\t{described.engine_version}",
        *([f"Runtime:\t\t{described.runtime_version}"] if described.runtime_version else []),
    ]
    if described.allowed:
        lines.append(f"Allowed:\t\t{', '.join(described.allowed)}")
    if described.engine_labels:
        lines += ["Engine Labels:", *_labels(described.engine_labels)]
    return "\n".join(lines) + "\n"


def _given(name: str, value: Any) -> dict[str, Any]:
    """Nothing when there is nothing, as Go's omitempty."""
    return {name: value} if value else {}


def _labels(labels: Any) -> list[str]:
    return [f" - {key}={value}" if value else f" - {key}" for key, value in sorted(labels.items())]
