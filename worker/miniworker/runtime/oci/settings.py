"""What the `oci` runtime can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OciSettings:
    data_dir: Path
    """Images and containers; on a file system that overlayfs accepts as upper layer."""
    run_dir: Path
    """State that must not survive a reboot, on a tmpfs."""
    insecure_registries: tuple[str, ...] = ()
    """`host` or `host:port` of registries that may answer in plain HTTP or with a certificate of their own.
    Loopback addresses always may, as with Docker."""
    binary: str = ""
    """The OCI runtime to use; empty: crun where the host has only cgroup v2 and crun is installed, else runc."""
    conmon: str = "conmon"
    parallel_downloads: int = 3
    """Layers of one image fetched at once (Docker's `max-concurrent-downloads`)."""
    parallel_starts: int = 4
    """Containers being started at once. Starting is all CPU, some 30 ms of it; more at once only makes each later."""
    parallel_execs: int = 16
    """Commands being run inside containers at once. One costs as much as a start, but may hang until its timeout."""
