"""A stand-in for the file systems of secrets: plain directories, and what was mounted is remembered."""

from __future__ import annotations

from pathlib import Path


class PlainFileSystems:
    def __init__(self) -> None:
        self.mounted: dict[Path, int] = {}

    def mount(self, path: Path, size_bytes: int) -> None:
        self.mounted[path] = size_bytes

    def unmount(self, path: Path) -> None:
        self.mounted.pop(path, None)
