"""Who holds a port of this node: asked before one is promised, and for the text of a refusal."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

from miniworker.network.api import HostPort

CHOSEN_PORTS = range(32768, 61000)
"""For a published port of 0; Swarm's range (and Linux' default for ephemeral ports)."""

_IP_FREEBIND = 15
"""<linux/in.h>; Python does not name it."""

_SOMEBODY = "a process of the host"

_TCP_LISTEN = "0A"
_UDP_BOUND = "07"


def port_is_free(wanted: HostPort, number: int) -> bool:
    """Whether no process of the calling thread's namespace holds the number, on whatever address or on the port's."""
    kind = socket.SOCK_STREAM if wanted.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # the node may not have the address yet
        if wanted.protocol == "tcp":  # connections that have ended do not count; a listener still does
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(wanted.host_ip or IPv4Address(0)), number))
        except OSError:
            return False
    return True


def port_holder(protocol: str, port: int) -> str:
    """The process that holds a port, as "redis-server (pid 812)"; "a process of the host" when it cannot be told."""
    return port_listener(protocol, port) or _SOMEBODY


def port_listener(protocol: str, port: int, address: IPv4Address | None = None) -> str:
    """The same; empty when no socket has the port, on whatever address or on this one."""
    inodes = {
        f"socket:[{inode}]" for name in (protocol, f"{protocol}6") for inode in _inodes(name, port, address)
    }
    if not inodes:
        return ""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and _holds(directory, inodes):
            try:
                return f"{(directory / 'comm').read_text().strip()} (pid {directory.name})"
            except OSError:
                break
    return _SOMEBODY


def _inodes(table: str, port: int, address: IPv4Address | None) -> list[str]:
    """The inodes of the sockets that listen on a port, from /proc/net/{tcp,udp}{,6}."""
    try:
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [
        row[9]
        for row in rows
        if int(row[1].rpartition(":")[2], 16) == port
        and row[3] in (_TCP_LISTEN, _UDP_BOUND)
        and (address is None or _answers(row[1].partition(":")[0], address))
    ]


def _answers(bound: str, address: IPv4Address) -> bool:
    """Whether a socket that is bound so, as the table writes it, takes what is sent to the address."""
    own = f"{int.from_bytes(address.packed, sys.byteorder):08X}"
    return not bound.strip("0") or bound in (own, f"0000000000000000FFFF0000{own}")


def _holds(process: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(entry) in sockets for entry in (process / "fd").iterdir())
    except OSError:  # it has ended meanwhile
        return False
