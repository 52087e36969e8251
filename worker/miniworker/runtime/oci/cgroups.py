"""Control groups, version 1 and 2: where a container's are, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Used:
    """What a control group's files tell; 0 for what they do not."""

    cpu_ns: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """0: no limit."""
    read_bytes: int = 0
    written_bytes: int = 0
    pids: int = 0


_NO_LIMIT = 1 << 62
"""Version 1 writes a number of this order where there is no limit."""


def members(group: str, mount: Path = MOUNT) -> tuple[int, ...]:
    """Every process of the control group at this path below the root of every hierarchy."""
    text = _first(group, ("", "pids", "memory"), "cgroup.procs", mount)
    return tuple(int(pid) for pid in text.split())


def usage(group: str, mount: Path = MOUNT) -> Used:
    """What the processes of the control group use now."""
    if is_unified(mount):
        return _usage_unified(group, mount)
    memory = _fields(_first(group, ("memory",), "memory.stat", mount))
    limit = _number(_first(group, ("memory",), "memory.limit_in_bytes", mount))
    read, written = _blocks(_first(group, ("blkio",), "blkio.throttle.io_service_bytes", mount))
    return Used(
        cpu_ns=_number(_first(group, ("cpuacct", "cpu,cpuacct"), "cpuacct.usage", mount)),
        memory_bytes=max(
            0,
            _number(_first(group, ("memory",), "memory.usage_in_bytes", mount))
            - memory.get("total_inactive_file", 0),
        ),
        memory_limit_bytes=0 if limit >= _NO_LIMIT else limit,
        read_bytes=read,
        written_bytes=written,
        pids=_number(_first(group, ("pids",), "pids.current", mount)),
    )


def _usage_unified(group: str, mount: Path) -> Used:
    memory = _fields(_first(group, ("",), "memory.stat", mount))
    blocks = [
        dict(part.split("=") for part in line.split()[1:])
        for line in _first(group, ("",), "io.stat", mount).splitlines()
    ]
    return Used(
        cpu_ns=_fields(_first(group, ("",), "cpu.stat", mount)).get("usage_usec", 0) * 1000,
        memory_bytes=max(
            0,
            _number(_first(group, ("",), "memory.current", mount)) - memory.get("inactive_file", 0),
        ),
        memory_limit_bytes=_number(_first(group, ("",), "memory.max", mount)),
        read_bytes=sum(int(block.get("rbytes", 0)) for block in blocks),
        written_bytes=sum(int(block.get("wbytes", 0)) for block in blocks),
        pids=_number(_first(group, ("",), "pids.current", mount)),
    )


def _first(group: str, hierarchies: Sequence[str], name: str, mount: Path) -> str:
    """The text of the file in the first hierarchy that has it; empty when none does."""
    for hierarchy in hierarchies:
        try:
            return (mount / hierarchy / group.lstrip("/") / name).read_text()
        except OSError:
            continue
    return ""


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdigit() else 0


def _fields(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _blocks(text: str) -> tuple[int, int]:
    """Bytes read and written, over all devices: lines of `8:0 Read 4096`."""
    rows = [line.split() for line in text.splitlines()]
    sums = [
        sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == kind) for kind in ("Read", "Write")
    ]
    return sums[0], sums[1]


def group_of(pid: int) -> str:
    """The path of the process's control group, whoever made it; empty: the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    groups = {controller: path for _, names, path in _parts(lines) for controller in names.split(",")}
    return groups.get("memory", groups.get("", ""))


def _parts(lines: list[str]) -> list[tuple[str, str, str]]:
    """`5:memory:/docker/1f2e`; version 2 names no controller."""
    found = (line.split(":", 2) for line in lines)
    return [(number, names, path) for number, names, path in found]


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
