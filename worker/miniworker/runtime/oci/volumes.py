"""The node's named volumes: `volumes/<name>/_data`, as Docker has it, with labels beside it in `volume.json`.

Calls are made on the event loop, and what decides (is it in use? take it away) happens between two awaits, so that a
volume cannot be given to a container while it is being removed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from miniworker.runtime.api import NoSuchVolumeError, Volume, VolumeError
from miniworker.runtime.oci.mounts import VOLUME_NAME
from miniworker.runtime.oci.records import ContainerRecord, ensure_directory

_GOING = ".going-"
"""Begins the directory of a volume that is being removed; no volume can have such a name."""

Users = Callable[[], tuple[ContainerRecord, ...]]
"""The containers that exist, whatever their state."""


class OciVolumes:
    """Implements `Volumes`."""

    def __init__(self, root: Path, users: Users) -> None:
        self._root = root
        self._users = users
        self._being_given: dict[str, tuple[str, ...]] = {}

    def recover(self) -> None:
        """Finish removals that a killed agent left half done. Blocks."""
        for path in self._root.glob(f"{_GOING}*"):
            _remove_tree(path)

    @contextmanager
    def given(self, container_id: str, names: Iterable[str]) -> Iterator[None]:
        """While a container is being made, its volumes are in use though no record says so yet."""
        self._being_given[container_id] = tuple(names)
        try:
            yield
        finally:
            del self._being_given[container_id]

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Volume:
        if not VOLUME_NAME.fullmatch(name):
            raise VolumeError(
                f'create {name}: "{name}" includes invalid characters for a local volume name, '
                'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
            )
        folder = self._root / name
        if not folder.exists():
            ensure_directory(self._root, 0o711)
            ensure_directory(folder, 0o711)
            (folder / "volume.json").write_text(json.dumps({"labels": dict(labels)}))
            (folder / "_data").mkdir(0o755)
        return self._volume(folder)

    async def list_volumes(self) -> tuple[Volume, ...]:
        folders = self._root.iterdir() if self._root.exists() else ()
        return tuple(self._volume(path) for path in sorted(folders) if VOLUME_NAME.fullmatch(path.name))

    async def get_volume(self, name: str) -> Volume:
        return self._volume(self._folder(name))

    async def remove_volume(self, name: str) -> int:
        folder = self._folder(name)
        if users := self._used_by(name):
            raise VolumeError(f"remove {name}: volume is in use - [{', '.join(users)}]")
        going = self._root / f"{_GOING}{uuid.uuid4().hex}"
        folder.rename(going)
        return await asyncio.to_thread(_remove_tree, going)

    def _folder(self, name: str) -> Path:
        if not VOLUME_NAME.fullmatch(name) or not (self._root / name).is_dir():
            raise NoSuchVolumeError(f"get {name}: no such volume")
        return self._root / name

    def _volume(self, folder: Path) -> Volume:
        return Volume(
            name=folder.name,
            mountpoint=str(folder / "_data"),
            created_at_ns=folder.stat().st_mtime_ns,
            labels=_labels(folder / "volume.json"),
            used_by=self._used_by(folder.name),
        )

    def _used_by(self, name: str) -> tuple[str, ...]:
        present = {record.id for record in self._users() if name in record.volumes}
        making = {key for key, names in self._being_given.items() if name in names}
        return tuple(sorted(present | making))


def _labels(path: Path) -> Mapping[str, str]:
    """Those it was created with; a volume that a container made has none."""
    try:
        found: Mapping[str, str] = json.loads(path.read_text())["labels"]
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _remove_tree(path: Path) -> int:
    """The bytes it took on the disk. `rm` also removes what a container has made immutable to others by mode."""
    told = subprocess.run(["du", "--summarize", "--bytes", "--", str(path)], capture_output=True, text=True)
    removed = subprocess.run(["rm", "-rf", "--", str(path)], capture_output=True, text=True)
    if removed.returncode != 0:
        raise VolumeError(f"the volume's files cannot be removed: {removed.stderr.strip()}")
    size = told.stdout.partition("\t")[0]
    return int(size) if size.isdigit() else 0
