"""The files of secrets and configs on the node: in a tmpfs per task, never on a disk, gone with the task.

    <directory>/<task id>/        a tmpfs of root's own, that is not swapped out where the kernel can promise it
        secrets/...               what is below /run/secrets in the container: one mount
        single/<number>           what is elsewhere: a mount for each file
        complete                  everything has been written

Everything is found again by the task's id, so that an agent that was killed goes on or begins anew. Blocks: to be
called in a thread.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from miniworker.runtime.api import Mount, MountKind, RuntimeFaultError
from miniworker.runtime.oci import syscalls

logger = logging.getLogger(__name__)

SECRETS_DIRECTORY: Final = "/run/secrets"
"""Where Docker puts secrets that name no absolute path."""

_PAGE: Final = 4096
_SPARE_BYTES: Final = 1 << 20
"""Of a tmpfs, for directories and rounding."""

_FLAGS: Final = 0x2 | 0x4 | 0x8
"""MS_NOSUID, MS_NODEV, MS_NOEXEC of mount(2)."""


@dataclass(frozen=True, slots=True)
class ContentFile:
    """One file as the container is to see it."""

    path: str
    """Absolute, in the container."""
    data: bytes = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


class FileSystems(Protocol):
    """Mounts what the files are in."""

    def mount(self, path: Path, size_bytes: int) -> None:
        """An empty file system of at least this size at the directory. Raises OSError."""

    def unmount(self, path: Path) -> None:
        """Take away all that is mounted there; nothing is: no error."""


class Tmpfs:
    """The real one; needs root."""

    def mount(self, path: Path, size_bytes: int) -> None:
        options = f"mode=0700,size={size_bytes}"
        try:
            syscalls.mount("tmpfs", path, "tmpfs", flags=_FLAGS, options=f"{options},noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Linux before 6.4 does not know the option.
            syscalls.mount("tmpfs", path, "tmpfs", flags=_FLAGS, options=options)

    def unmount(self, path: Path) -> None:
        while syscalls.unmount(path):
            continue


class ContentFiles:
    """The files of all tasks of this node, below one directory."""

    def __init__(self, directory: Path, file_systems: FileSystems) -> None:
        self._directory = directory
        self._file_systems = file_systems

    def write(self, task_id: str, files: Sequence[ContentFile], *, taken: Collection[str] = ()) -> None:
        """Write the task's files anew. `taken`: where the container has mounts of its own.

        Raises RuntimeFaultError, which has paths and no content.
        """
        self.forget(task_id)
        root = self._root(task_id)
        try:
            root.mkdir(parents=True, mode=0o700)
            self._file_systems.mount(root, _size(files))
            for source, file in _places(root, files, taken):
                _write(root, source, file)
            (root / "complete").touch(mode=0o400)
        except OSError as error:
            self.forget(task_id)
            raise RuntimeFaultError(f"cannot write the task's secrets: {error.strerror}") from error

    def is_complete(self, task_id: str) -> bool:
        """Whether all of the task's files have been written."""
        return (self._root(task_id) / "complete").exists()

    def mounts(
        self, task_id: str, files: Sequence[ContentFile], *, taken: Collection[str] = ()
    ) -> list[Mount]:
        """What of the node is to be where in the container; the content of `files` is not looked at."""
        root = self._root(task_id)
        found: list[Mount] = []
        for source, file in _places(root, files, taken):
            if source.is_relative_to(root / "secrets"):
                source, target = root / "secrets", SECRETS_DIRECTORY
            else:
                target = file.path
            mount = Mount(MountKind.BIND, target, str(source), read_only=True)
            if mount not in found:
                found.append(mount)
        return found

    def forget(self, task_id: str) -> None:
        """Nothing is left of the task's files."""
        root = self._root(task_id)
        try:
            self._file_systems.unmount(root)
            shutil.rmtree(root)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RuntimeFaultError(f"cannot remove the task's secrets: {error.strerror}") from error

    def adopt(self, task_ids: Collection[str]) -> None:
        """Keep the files of these tasks, which a former process may have written, and no others."""
        if not self._directory.exists():
            return
        for path in self._directory.iterdir():
            if path.name not in task_ids:
                self.forget(path.name)

    def clear(self) -> None:
        """Keep nothing."""
        self.adopt(())

    def _root(self, task_id: str) -> Path:
        return self._directory / task_id


def _places(
    root: Path, files: Sequence[ContentFile], taken: Collection[str]
) -> list[tuple[Path, ContentFile]]:
    """Where each file is on the node. Below a mount of the container's own every file is a mount by itself."""
    together = not any(_is_within(path, SECRETS_DIRECTORY) for path in taken)
    places: list[tuple[Path, ContentFile]] = []
    for number, file in enumerate(files):
        if together and _is_within(file.path, SECRETS_DIRECTORY) and file.path != SECRETS_DIRECTORY:
            places.append((root / "secrets" / posixpath.relpath(file.path, SECRETS_DIRECTORY), file))
        else:
            places.append((root / "single" / str(number), file))
    return places


def _is_within(path: str, directory: str) -> bool:
    normal = posixpath.normpath(path)
    return normal == directory or normal.startswith(f"{directory}/")


def _write(root: Path, path: Path, file: ContentFile) -> None:
    missing = [parent for parent in path.parents if parent.is_relative_to(root) and not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o755)
        parent.chmod(0o755)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(file.data)
        os.fchown(descriptor, file.uid, file.gid)
        os.fchmod(descriptor, file.mode)  # last: fchown(2) clears the bits for set-user-id


def _size(files: Sequence[ContentFile]) -> int:
    return _SPARE_BYTES + sum(-(-len(file.data) // _PAGE) * _PAGE for file in files)
