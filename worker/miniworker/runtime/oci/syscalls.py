"""The few system calls that Python does not wrap, through the C library. Errors are OSError, as `os` raises."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

MNT_DETACH = 2
IN_MODIFY = 0x2
IN_ATTRIB = 0x4
"""Also when a name of the file goes."""

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_NONBLOCK = os.O_NONBLOCK
IN_CLOEXEC = os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, *, flags: int = 0, options: str = "") -> None:
    """mount(2); the C call lets other threads run."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {kind} on {target}")


def unmount(target: Path) -> bool:
    """Detach what is mounted there, also while it is in use; whether there was anything."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return False
    _check(-1, f"unmount {target}")
    return False


def sync_descriptor(descriptor: int) -> None:
    """syncfs(2): all that was written to the file system of the open file is on the disk."""
    _check(_libc.syncfs(descriptor), "syncfs")


def inotify(path: Path, mask: int) -> int:
    """A descriptor that becomes readable when `mask` happens to `path`; the caller closes it."""
    descriptor: int = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    _check(descriptor, "inotify")
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number), os.fspath(path))
    return descriptor


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
