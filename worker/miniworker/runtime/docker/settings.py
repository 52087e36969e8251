"""What the `docker` runtime can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOCKET = Path("/var/run/docker.sock")
"""Where the Engine listens unless it was told otherwise."""


@dataclass(frozen=True, slots=True)
class DockerSettings:
    data_dir: Path
    """The files of /etc of each container; the Engine must see it under the same path. Containers made under another
    one are not ours."""
    socket: Path = SOCKET
    parallel_starts: int = 4
    """Containers being started at once; more only makes each later."""
    parallel_execs: int = 16
    """Commands of health checks being run inside containers at once."""
