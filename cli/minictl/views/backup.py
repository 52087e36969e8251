"""What a backup holds, and what is to be done after one was restored."""

from __future__ import annotations

from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.node_pb2 import RestoreResponse


def lines(report: dict[str, Any]) -> list[str]:
    """The report of `mini-manager --verify-backup`."""
    objects = ", ".join(f"{count} {_counted(kind, count)}" for kind, count in report["objects"].items())
    records = report["ledger_records"]
    return [
        f"Swarm:    {report['cluster']}",
        f"Made:     {moment(report['created_at_ns'])} by {report['hostname']} ({report['address']}), "
        f"mini {report['version']}",
        f"Revision: {report['revision']}, {report['entries']} keys",
        f"Objects:  {objects}",
        f"Ledger:   {records} {_counted('records', records)} of deliveries",
        *(f"Problem:  {problem}" for problem in report["problems"]),
    ]


def restored(answer: RestoreResponse) -> list[str]:
    """The new manager, and how the workers come back."""
    said = [
        f"Swarm {answer.cluster_id} restored as of {moment(answer.created_at_ns)}: "
        f"current node ({answer.node_id}) is now its only manager.",
        "",
    ]
    if answer.former_address == answer.join_address:
        return [*said, f"Its address is as before, {answer.join_address}: workers come back by themselves."]
    return [
        *said,
        f"Workers look for it at {answer.former_address}; it is at {answer.join_address} now. "
        "Run on each of them:",
        "",
        "    minictl swarm leave",
        f"    minictl swarm join --token {answer.worker_token} {answer.join_address}",
        "",
        "and remove what they were before with 'minictl node rm'.",
    ]


def _counted(plural: str, count: int) -> str:
    return plural[:-1] if count == 1 else plural


def moment(at_ns: int) -> str:
    """In UTC, to the second."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
