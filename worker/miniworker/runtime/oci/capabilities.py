"""Linux capabilities: Docker's defaults, and what --cap-add and --cap-drop make of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from miniworker.runtime.api import RuntimeFaultError

DEFAULT = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""What a container may do unless told otherwise (moby `daemon/pkg/oci/caps/defaults.go`)."""

KNOWN = frozenset(
    {
        *DEFAULT,
        "CAP_AUDIT_CONTROL",
        "CAP_AUDIT_READ",
        "CAP_BLOCK_SUSPEND",
        "CAP_BPF",
        "CAP_CHECKPOINT_RESTORE",
        "CAP_DAC_READ_SEARCH",
        "CAP_IPC_LOCK",
        "CAP_IPC_OWNER",
        "CAP_LEASE",
        "CAP_LINUX_IMMUTABLE",
        "CAP_MAC_ADMIN",
        "CAP_MAC_OVERRIDE",
        "CAP_NET_ADMIN",
        "CAP_NET_BROADCAST",
        "CAP_PERFMON",
        "CAP_SYS_ADMIN",
        "CAP_SYS_BOOT",
        "CAP_SYS_MODULE",
        "CAP_SYS_NICE",
        "CAP_SYS_PACCT",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_RESOURCE",
        "CAP_SYS_TIME",
        "CAP_SYS_TTY_CONFIG",
        "CAP_SYSLOG",
        "CAP_WAKE_ALARM",
    }
)
"""capabilities(7)."""

_ALL = "CAP_ALL"

_NUMBERED = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
"""In the order of their numbers (<linux/capability.h>)."""


def own() -> frozenset[str]:
    """Those of this process: what it has to give."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return of_mask(int(value, 16))
    return frozenset()


def of_mask(mask: int) -> frozenset[str]:
    """The names of a set as /proc shows it."""
    return frozenset(f"CAP_{name}" for number, name in enumerate(_NUMBERED.split()) if mask >> number & 1)


def effective(add: Iterable[str], drop: Iterable[str], *, held: frozenset[str] = KNOWN) -> tuple[str, ...]:
    """The capabilities of a container; `held` are the ones this process has to give, which bound ALL.

    As in Docker: ALL may be added or dropped, and the single names of the other list then adjust it.
    Raises RuntimeFaultError for a name that does not exist.
    """
    added, dropped = _names(add), _names(drop)
    if _ALL in added:
        base = held
    elif _ALL in dropped:
        base = frozenset()
    else:
        base = frozenset(DEFAULT)
    return tuple(sorted((base | (added - {_ALL})) - (dropped - {_ALL})))


def _names(given: Iterable[str]) -> frozenset[str]:
    names = frozenset(
        name if name.startswith("CAP_") else f"CAP_{name}" for name in (item.upper() for item in given)
    )
    unknown = sorted(names - KNOWN - {_ALL})
    if unknown:
        raise RuntimeFaultError(f"invalid capability: {', '.join(unknown)}; see capabilities(7)")
    return names
