"""Reading a file inside a container's root directory without ever leaving it.

`/etc` in an image may be a symbolic link to anywhere. Links are resolved by hand, as if the directory were the root.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_MOST_LINKS = 40
"""The kernel's own limit of symbolic links in one path."""


def resolve(root: Path, path: str) -> Path:
    """Where `path` is on the host when `root` is its root. Raises OSError (ELOOP) for links in a circle."""
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    parts: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            parts = parts[:-1]
            continue
        try:
            target = os.readlink(root.joinpath(*parts, part))
        except OSError:
            parts.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, "too many symbolic links", path)
        if target.startswith("/"):
            parts = []
        waiting += [step for step in reversed(target.split("/")) if step not in ("", ".")]
    return root.joinpath(*parts)


def read_text(root: Path, path: str, *, limit: int = 1 << 20) -> str:
    """The first `limit` bytes of a regular file below `root`; empty when there is none."""
    try:
        found = resolve(root, path)
        descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.pread(descriptor, limit, 0).decode(errors="replace")
    finally:
        os.close(descriptor)
