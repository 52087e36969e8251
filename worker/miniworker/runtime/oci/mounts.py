"""The mounts that a service asks for: bind mounts, volumes, tmpfs; as runc is told of them.

A volume is a directory below the runtime's: `volumes/<name>/_data`, as Docker has it. One without a name lies in its
container's directory and goes with it.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from miniworker.runtime.api import Mount, MountKind, RuntimeFaultError
from miniworker.runtime.oci import rooted
from miniworker.runtime.oci.records import ContainerFiles, ensure_directory

OciMount: TypeAlias = dict[str, Any]

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")

_TMPFS_MODE = 0o1777
"""Docker's default."""


def mount(target: str, kind: str, source: str, options: list[str]) -> OciMount:
    return {"destination": target, "type": kind, "source": source, "options": options}


def bind(target: str, source: Path, *, read_only: bool, kind: str = "rbind", spread: str = "") -> OciMount:
    """`spread` is how later mounts below are passed on; empty: not at all."""
    return mount(target, "bind", str(source), [kind, spread or "rprivate", *(["ro"] if read_only else [])])


def prepare(mounts: Sequence[Mount], files: ContainerFiles, *, volumes: Path) -> tuple[OciMount, ...]:
    """Make what they need; outer ones first. The container's file system is mounted.

    Raises RuntimeFaultError for a bind mount without a source, in Docker's words.
    """
    outer_first = sorted(enumerate(mounts), key=lambda item: item[1].target.rstrip("/").count("/"))
    return tuple(_prepare(index, item, files, volumes) for index, item in outer_first)


def _prepare(index: int, item: Mount, files: ContainerFiles, volumes: Path) -> OciMount:
    match item.kind:
        case MountKind.BIND:
            return _bind(item)
        case MountKind.TMPFS:
            return _tmpfs(item)
        case MountKind.VOLUME:
            _check_name(item.source)
            folder = volumes / item.source if item.source else files.volumes / str(index)
            return bind(item.target, _volume(item, folder, files.rootfs), read_only=item.read_only)


def _check_name(name: str) -> None:
    """It becomes a directory's: a template may have made it anything."""
    if name and not VOLUME_NAME.fullmatch(name):
        raise RuntimeFaultError(
            f'"{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )


def _bind(item: Mount) -> OciMount:
    if not Path(item.source).exists():
        raise RuntimeFaultError(
            f'invalid mount config for type "bind": bind source path does not exist: {item.source}'
        )
    kind = "rbind" if item.recursive else "bind"
    return bind(item.target, Path(item.source), read_only=item.read_only, kind=kind, spread=item.propagation)


def _tmpfs(item: Mount) -> OciMount:
    options = ["noexec", "nosuid", "nodev", f"mode={item.mode or _TMPFS_MODE:o}"]
    options += [f"size={item.size_bytes}"] if item.size_bytes else []
    options += ["ro"] if item.read_only else []
    return mount(item.target, "tmpfs", "tmpfs", options)


def _volume(item: Mount, folder: Path, rootfs: Path) -> Path:
    """The directory with its data. An empty one gets what the image has at the target, owner and mode too."""
    for path in (folder.parent, folder):
        ensure_directory(path, 0o711)
    data, fresh = folder / "_data", folder / "_new"
    image_has = rooted.resolve(rootfs, item.target)
    grows = item.copy and image_has.is_dir()
    with _locked(folder):
        if data.exists():
            if grows and not any(data.iterdir()):  # made by hand, and not used yet
                _copy(image_has, data)
        else:
            # Renamed into place: one whose copying was interrupted is begun anew.
            subprocess.run(["rm", "-rf", "--", str(fresh)], check=True)
            fresh.mkdir(0o755)
            if grows:
                _copy(image_has, fresh)
            fresh.rename(data)
    return data


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time: two containers may be the first to want the same volume."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    command = ["cp", "--archive", "--no-target-directory", "--", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeFaultError(f"cannot fill a volume from {source.name}: {done.stderr.strip()}")
