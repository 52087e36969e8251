"""What containers use, in `minictl stats`."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.streams_pb2 import ContainerUsage

LAYOUT = Layout(
    {
        "Container": "CONTAINER",
        "ID": "CONTAINER ID",
        "Name": "NAME",
        "Node": "NODE",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
    },
    ("ID", "Name", "Node", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"),
)

_DIGITS = 3


def row(used: ContainerUsage, before: ContainerUsage | None, *, truncate: bool) -> dict[str, Any]:
    """What it uses now; the processors since the sample before, 0 without one."""
    share = 0.0
    if before is not None and used.time_ns > before.time_ns and used.cpu_ns >= before.cpu_ns:
        share = 100.0 * (used.cpu_ns - before.cpu_ns) / (used.time_ns - before.time_ns)
    memory = 100.0 * used.memory_bytes / used.memory_limit_bytes if used.memory_limit_bytes else 0.0
    identity = used.id[: common.SHORT_ID] if truncate else used.id
    return {
        "BlockIO": _pair(used.read_bytes, used.written_bytes),
        "CPUPerc": f"{share:.2f}%",
        "Container": identity,
        "ID": identity,
        "MemPerc": f"{memory:.2f}%",
        "MemUsage": f"{_binary(used.memory_bytes)} / {_binary(used.memory_limit_bytes)}",
        "Name": used.name,
        "NetIO": _pair(used.received_bytes, used.sent_bytes),
        "Node": used.node_hostname or used.node_id,
        "PIDs": str(used.pids),
    }


def _pair(first: int, second: int) -> str:
    return f"{units.human_size(first, digits=_DIGITS)} / {units.human_size(second, digits=_DIGITS)}"


def _binary(size: int) -> str:
    """`1.5MiB`, as Docker shows memory."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"
