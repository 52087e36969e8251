"""What we remember of a container: one JSON file in its directory, written last when it is made."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniworker.runtime.api import KEEP_ALL, HealthCheck, LogLimits


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    id: str
    name: str
    image_id: str
    chain: tuple[str, ...]
    """Its layers, lowest first: they stay while it exists, even if the image's name goes."""
    stop_signal: str
    stop_grace_period_ns: int
    labels: Mapping[str, str]
    tty: bool = False
    health: HealthCheck | None = None
    volumes: tuple[str, ...] = ()
    """The named ones that it was given."""
    logs: LogLimits = KEEP_ALL
    image: str = ""
    arguments: tuple[str, ...] = ()
    open_stdin: bool = False
    created_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class ContainerFiles:
    """Where a container keeps what."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "container.json"

    @property
    def rootfs(self) -> Path:
        """The mount point of its file system."""
        return self.root / "rootfs"

    @property
    def upper(self) -> Path:
        return self.root / "upper"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def etc(self) -> Path:
        """hosts, hostname and resolv.conf, bound into /etc."""
        return self.root / "etc"

    @property
    def volumes(self) -> Path:
        """The volumes without a name: they go with the container."""
        return self.root / "volumes"

    @property
    def log(self) -> Path:
        """Its output, in the format of Kubernetes' log files."""
        return self.root / "output.log"

    @property
    def pid(self) -> Path:
        return self.root / "pid"

    @property
    def conmon_pid(self) -> Path:
        return self.root / "conmon.pid"

    @property
    def document(self) -> Path:
        """config.json, which the OCI runtime is told."""
        return self.root / "config.json"

    @property
    def attach(self) -> Path:
        """conmon's socket for standard input."""
        return self.root / "attach"

    @property
    def control(self) -> Path:
        """conmon takes the size of the terminal from this FIFO."""
        return self.root / "ctl"

    @property
    def exits(self) -> Path:
        """conmon writes the exit code here, under the container's id."""
        return self.root / "exit"

    @property
    def state(self) -> Path:
        """conmon's working directory; it leaves an empty file `oom` here when memory ran out."""
        return self.root / "conmon"


class Containers:
    """The containers of one data directory. Methods block, but for microseconds."""

    def __init__(self, root: Path) -> None:
        self._root = root / "containers"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cache: dict[str, ContainerRecord] = {}
        for path in self._root.iterdir():
            files = ContainerFiles(path)
            if files.record.exists():
                self._cache[path.name] = _read(files.record)

    def all(self) -> tuple[ContainerRecord, ...]:
        return tuple(self._cache.values())

    def get(self, container_id: str) -> ContainerRecord | None:
        return self._cache.get(container_id)

    def files(self, container_id: str) -> ContainerFiles:
        return ContainerFiles(self._root / container_id)

    def unfinished(self) -> tuple[ContainerFiles, ...]:
        """Directories whose making or removing was interrupted."""
        return tuple(
            ContainerFiles(path) for path in sorted(self._root.iterdir()) if path.name not in self._cache
        )

    def put(self, record: ContainerRecord) -> None:
        """From now on the container exists."""
        path = self.files(record.id).record
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(dataclasses.asdict(record)))
        temporary.replace(path)
        self._cache[record.id] = record

    def forget(self, container_id: str) -> None:
        """It no longer exists, though its directory may."""
        self.files(container_id).record.unlink(missing_ok=True)
        self._cache.pop(container_id, None)


def _read(path: Path) -> ContainerRecord:
    raw = json.loads(path.read_text())
    return ContainerRecord(
        **{
            **raw,
            "chain": tuple(raw["chain"]),
            "health": _health(raw.get("health")),
            "volumes": tuple(raw.get("volumes", ())),
            "logs": LogLimits(**raw.get("logs", {})),
            "arguments": tuple(raw.get("arguments", ())),
        }
    )


def _health(raw: Mapping[str, Any] | None) -> HealthCheck | None:
    return None if raw is None else HealthCheck(**{**raw, "test": tuple(raw["test"])})


def read_number(path: Path) -> int | None:
    """The number in a small file of conmon's; None while there is none."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def ensure_directory(path: Path, mode: int = 0o700) -> None:
    """Make it, with exactly this mode."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, mode)
