"""Control groups, version 1 and 2: where a container's are, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miniworker.runtime.api import Limits, RuntimeFaultError

MOUNT = Path("/sys/fs/cgroup")
PARENT = "mini"

_PERIOD_US = 100_000
"""Microseconds: the scheduler period that Docker uses for --cpus."""

_MIN_QUOTA_US = 1_000
"""The kernel refuses less."""


def is_unified(mount: Path = MOUNT) -> bool:
    """Whether the host has only version 2. A hybrid host, which has both, keeps its controllers in version 1."""
    return (mount / "cgroup.controllers").exists()


def path_of(container_id: str) -> str:
    """Below the root of every hierarchy; runc takes it as `cgroupsPath`."""
    return f"/{PARENT}/{container_id}"


def resources(
    limits: Limits, *, devices: Sequence[dict[str, Any]] = (), unified: bool = False
) -> dict[str, Any]:
    """`linux.resources`: devices denied but for the usual ones and those of these rules, and the limits asked for.

    Raises RuntimeFaultError for a limit that this kernel has not got: it must not be ignored.
    """
    result: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}, *devices]}
    if limits.nano_cpus:
        quota = max(_MIN_QUOTA_US, limits.nano_cpus * _PERIOD_US // 1_000_000_000)
        result["cpu"] = {"quota": quota, "period": _PERIOD_US}
    if limits.memory_bytes:
        # Without `swap`, as Docker does where only memory is given, the kernel's own default applies.
        result["memory"] = {"limit": limits.memory_bytes}
        if limits.swap_bytes:  # the OCI runtime wants both together
            both = -1 if limits.swap_bytes < 0 else limits.memory_bytes + limits.swap_bytes
            result["memory"]["swap"] = both
    if limits.swappiness >= 0:
        if unified:
            raise RuntimeFaultError(
                "memory-swappiness needs cgroup v1: version 2, which this node has, lacks it"
            )
        result.setdefault("memory", {})["swappiness"] = limits.swappiness
    if limits.pids:
        result["pids"] = {"limit": limits.pids}
    return result


def holds(pid: int, container_id: str) -> bool:
    """Whether the process is of this container: its number may have gone to another since."""
    suffix = path_of(container_id)
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(line.rpartition(":")[2].endswith(suffix) for line in lines)


def oom_killed(container_id: str, mount: Path = MOUNT) -> bool:
    """Whether the kernel has killed a process of the container for lack of memory; asked before its group goes."""
    group = path_of(container_id).lstrip("/")
    for path in (mount / group / "memory.events", mount / "memory" / group / "memory.oom_control"):
        try:
            fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(fields.get("oom_kill", "0")) > 0
    return False
