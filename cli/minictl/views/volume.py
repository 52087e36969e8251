"""Volumes in a list, and as Docker's JSON."""

from __future__ import annotations

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.node_pb2 import Volume

LAYOUT = Layout(
    {
        "Driver": "DRIVER",
        "Name": "VOLUME NAME",
        "Scope": "SCOPE",
        "Mountpoint": "MOUNTPOINT",
        "Labels": "LABELS",
        "Links": "LINKS",
    },
    ("Driver", "Name"),
    quiet="Name",
)


def rows(volumes: Iterable[Volume]) -> list[dict[str, Any]]:
    """One row per volume, in the natural order of their names."""
    ordered = sorted(volumes, key=lambda volume: common.natural_key(volume.name))
    return [
        {
            "Driver": "local",
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
            "Links": str(len(volume.used_by)),
            "Mountpoint": volume.mountpoint,
            "Name": volume.name,
            "Scope": "local",
        }
        for volume in ordered
    ]


def to_json(volume: Volume) -> dict[str, Any]:
    """The volume as `docker volume inspect` prints it."""
    return {
        "CreatedAt": common.timestamp(volume.created_at_ns // 1_000_000_000 * 1_000_000_000),
        "Driver": "local",
        "Labels": dict(sorted(volume.labels.items())) or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }
