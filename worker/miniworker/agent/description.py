"""What this machine is, as the manager schedules by it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from minicommon import __version__
from miniproto.v1 import objects_pb2 as pb

from miniworker.runtime.api import RuntimeInfo

_NANOS_PER_CPU = 1_000_000_000
_MEMINFO = Path("/proc/meminfo")


def describe_node(
    hostname: str,
    runtime: RuntimeInfo,
    *,
    generic_resources: Iterable[pb.GenericResource] = (),
    allowed: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
) -> pb.NodeDescription:
    """`generic_resources`, `allowed` and `labels` are what the node's owner says of it."""
    return pb.NodeDescription(
        hostname=hostname,
        os=platform.system().lower(),
        architecture=platform.machine(),
        resources=pb.NodeResources(
            nano_cpus=(os.cpu_count() or 1) * _NANOS_PER_CPU,
            memory_bytes=memory_bytes(_MEMINFO.read_text()),
        ),
        engine_version=__version__,
        runtime=runtime.name,
        runtime_version=runtime.version,
        generic_resources=generic_resources,
        allowed=sorted(allowed),
        engine_labels=labels,
    )


def memory_bytes(meminfo: str) -> int:
    """MemTotal of the text of /proc/meminfo, in bytes; 0 when it is not there."""
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "MemTotal":
            return int(value.split()[0]) * 1024
    return 0
