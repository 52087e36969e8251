"""Devices of the node for containers: one by one, or all of them for a privileged one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from miniworker.runtime.api import Device, RuntimeFaultError

DEV = Path("/dev")

_OWN = frozenset({"pts", "shm", "mqueue", "console", "ptmx", "fd"})
"""Below /dev, a container has its own."""


def nodes(devices: Sequence[Device]) -> list[dict[str, Any]]:
    """`linux.devices`. Raises RuntimeFaultError for what is no device, in Docker's words."""
    return [_node(Path(device.source), device.target) for device in devices]


def rules(devices: Sequence[Device]) -> list[dict[str, Any]]:
    """What of `linux.resources.devices` lets the container use them."""
    return [
        {
            "allow": True,
            "type": node["type"],
            "major": node["major"],
            "minor": node["minor"],
            "access": device.permissions,
        }
        for device, node in zip(devices, nodes(devices), strict=True)
    ]


def everything() -> tuple[Device, ...]:
    """All devices of the node."""
    return tuple(Device(str(path), str(path), "rwm") for path in sorted(_below(DEV)))


def _below(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if folder == DEV and entry.name in _OWN:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(path)
        elif not entry.is_symlink() and _kind(entry.stat(follow_symlinks=False).st_mode):
            yield path


def _node(source: Path, target: str) -> dict[str, Any]:
    try:
        found = source.stat()
    except OSError as error:
        raise RuntimeFaultError(
            f'error gathering device information while adding custom device "{source}": {error.strerror}'
        ) from error
    kind = _kind(found.st_mode)
    if not kind:
        raise RuntimeFaultError(f'error gathering device information: "{source}" is not a device node')
    return {
        "path": target,
        "type": kind,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _kind(mode: int) -> str:
    if stat.S_ISCHR(mode):
        return "c"
    return "b" if stat.S_ISBLK(mode) else ""
