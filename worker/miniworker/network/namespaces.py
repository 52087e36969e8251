"""Network namespaces with a name: a bind mount of the namespace on a file keeps it, with or without processes.

The namespace belongs to the thread, so work inside one is done by a thread that enters it and ends. Netlink sockets
must be opened by the same thread: pyroute2 gives each thread a socket of its own, in the namespace the thread is in.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from miniworker.network.errors import NetworkError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_MS_BIND = 0x1000  # <linux/mount.h>
_MNT_DETACH = 2  # <sys/mount.h>

_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def in_namespace(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns or raises, done inside the namespace kept at `path`."""

    def enter_and_work() -> T:
        try:
            file = path.open()
        except OSError as error:
            raise NetworkError(f"cannot enter {path}: {error.strerror}") from error
        with file:
            _check(_libc.setns(file.fileno(), _CLONE_NEWNET), f"cannot enter {path}")
        return work()

    return _in_own_thread(enter_and_work)


def in_new_namespace(path: Path, work: Callable[[], T]) -> T:
    """Make a namespace, keep it at `path` and do `work` inside. Nothing is left when that fails."""

    def make_and_work() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "cannot make a network namespace")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        source, target = os.fsencode(_OWN), os.fsencode(path)
        try:
            _check(_libc.mount(source, target, None, _MS_BIND, None), f"cannot keep a namespace at {path}")
            return work()
        except BaseException:
            remove_namespace(path)
            raise

    return _in_own_thread(make_and_work)


def in_scratch_namespace(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done inside a namespace that is gone afterwards."""

    def make_and_work() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "cannot make a network namespace")
        return work()

    return _in_own_thread(make_and_work)


def remove_namespace(path: Path) -> None:
    """Let go of the namespace; processes inside keep it until they end. None there: nothing."""
    if is_namespace(path):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"cannot unmount {path}")
    path.unlink(missing_ok=True)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is kept there, not just the file of one that a reboot took away."""
    try:
        return path.stat().st_dev == Path(_OWN).stat().st_dev
    except FileNotFoundError:
        return False


def read_sysctl(name: str) -> str:
    """What /proc/sys/net/<name> of the calling thread's namespace says. Raises NetworkError."""
    path = Path("/proc/sys/net") / name
    try:
        return path.read_text().strip()
    except OSError as error:
        raise NetworkError(f"cannot read {path}: {error.strerror}") from error


def write_sysctl(name: str, value: str) -> None:
    """Set /proc/sys/net/<name> of the calling thread's namespace. Raises NetworkError."""
    path = Path("/proc/sys/net") / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise NetworkError(f"cannot set {path} to {value}: {error.strerror}") from error


def _in_own_thread(work: Callable[[], T]) -> T:
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            result.set_exception(error)

    thread = threading.Thread(target=run, name="network-namespace")
    thread.start()
    thread.join()
    return result.result()


def _check(code: int, what: str) -> None:
    if code != 0:
        raise NetworkError(f"{what}: {os.strerror(ctypes.get_errno())}")
