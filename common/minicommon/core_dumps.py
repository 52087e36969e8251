"""A process that holds secrets leaves no image of its memory behind."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""

_LOCK_ALL: Final = 1 | 2 | 4
"""MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT of mlockall(2): what is in memory now, and whatever comes into it."""

_CAP_IPC_LOCK: Final = 14
"""capabilities(7). Without it there is a limit, at which the process could get no memory any more."""


def forbid_core_dumps() -> None:
    """No core dump of this process, whatever the limits and whoever collects them; nor does anybody but root trace it.

    A program that it starts is not bound by it, so containers keep the node's own limits. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl PR_SET_DUMPABLE: {os.strerror(number)}")


def keep_out_of_swap() -> bool:
    """Lock the process's memory, if it has CAP_IPC_LOCK. Whether it was done; programs it starts are not bound."""
    if not _effective_capabilities() >> _CAP_IPC_LOCK & 1:
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mlockall(_LOCK_ALL) == 0)  # in a user namespace the capability is not the kernel's


def _effective_capabilities() -> int:
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")
    )
    return int(line.partition(":")[2], 16)
