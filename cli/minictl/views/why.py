"""Why a task is where it is: the answer as text, and as JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.control_pb2 import NodeRefusal, WhyResponse


def render(answer: WhyResponse) -> str:
    """The summary, a table of the nodes that refused, and what would help."""
    from minictl.output.table import align

    parts = [answer.summary + "\n"]
    if answer.refusals:
        rows = [[_node(each), each.filter, _reasons(each)] for each in answer.refusals]
        parts.append(align([["NODE", "FILTER", "REASON"], *rows]))
    if len(answer.help) == 1:
        parts.append(f"What would help: {answer.help[0]}\n")
    elif answer.help:
        parts.append("What would help, all of it:\n" + "".join(f"  {line}\n" for line in answer.help))
    return "\n".join(parts)


def to_json(answer: WhyResponse) -> dict[str, Any]:
    refusals = [
        {
            "NodeID": each.node_id,
            "Hostname": each.hostname,
            "Filter": each.filter,
            "Reason": each.reason,
            "Others": list(each.others),
        }
        for each in answer.refusals
    ]
    return {
        "ID": answer.task.task.id,
        "Summary": answer.summary,
        "Refusals": refusals,
        "Help": list(answer.help),
    }


def _node(refusal: NodeRefusal) -> str:
    """A node that never connected has no host name."""
    return refusal.hostname or refusal.node_id


def _reasons(refusal: NodeRefusal) -> str:
    return "; also: ".join([refusal.reason, *refusal.others])
