"""A process that holds secrets leaves no image of its memory behind."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""


def forbid_core_dumps() -> None:
    """No core dump of this process, whatever the limits and whoever collects them; nor does anybody but root trace it.

    A program that it starts is not bound by it, so containers keep the node's own limits. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl PR_SET_DUMPABLE: {os.strerror(number)}")
