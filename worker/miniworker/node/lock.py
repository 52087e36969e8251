"""One daemon per data directory: a lock that ends with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from minicommon.errors import FailedPreconditionError

_NAME = "mini-worker.lock"


class DirectoryLock:
    """Held from creation until `release` or the process's end."""

    def __init__(self, directory: Path) -> None:
        """Raises FailedPreconditionError, naming the holder, when another process has it."""
        path = directory / _NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode().strip() or "unknown"
            os.close(self._descriptor)
            raise FailedPreconditionError(
                f"data directory {directory} is in use by another mini-worker (pid {holder}); "
                "give each daemon on a machine its own --data-dir and --run-dir"
            ) from None
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)
