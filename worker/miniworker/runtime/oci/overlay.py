"""A container's file system: its own layer over those of its image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from miniworker.runtime.oci import syscalls
from miniworker.runtime.oci.records import ContainerFiles, ensure_directory

_MAX_OPTIONS = 4000
"""mount(2) takes one page of options."""


def mount(files: ContainerFiles, lower: Sequence[Path]) -> None:
    """Mount `lower`, topmost first, under the container's own writable layer. Mounted already: nothing."""
    if os.path.ismount(files.rootfs):
        return
    for path in (files.upper, files.work, files.rootfs):
        ensure_directory(path, 0o755 if path == files.upper else 0o700)
    # An image of no layers is allowed, overlayfs without one is not.
    layers = [str(path) for path in lower] or [str(_empty(files))]
    with ExitStack() as stack:
        if sum(len(layer) + 1 for layer in layers) > _MAX_OPTIONS - len(str(files.root)) * 2:
            layers = [_by_descriptor(layer, stack) for layer in layers]
        options = f"lowerdir={':'.join(layers)},upperdir={files.upper},workdir={files.work}"
        syscalls.mount("overlay", files.rootfs, "overlay", options=options)


def unmount(files: ContainerFiles) -> None:
    """Unmount; not mounted: nothing."""
    while syscalls.unmount(files.rootfs):
        pass


def _empty(files: ContainerFiles) -> Path:
    path = files.root / "empty"
    ensure_directory(path, 0o755)
    return path


def _by_descriptor(layer: str, stack: ExitStack) -> str:
    """A short name for a long path: 128 layers, Docker's limit, then fit in one page."""
    descriptor = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return f"/proc/self/fd/{descriptor}"
