"""Who is connected to a task: read from the TCP sockets of its network namespace.

The kernel's table (proc(5), `/proc/net/tcp`) has one line per socket: number, local and remote address in hexadecimal,
state, and more. Connections come in on the ports that somebody listens on; those that the task opens itself, and those
that stay inside the namespace, as the probes of a health check do, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from miniworker.network.api import Connections

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_LISTEN = 0x0A
_OPEN = frozenset({0x01, 0x03, 0x08})
"""ESTABLISHED, SYN_RECV, CLOSE_WAIT: the task may still have something to say."""
_CLOSING = frozenset({0x04, 0x09, 0x0B})
"""FIN_WAIT1, LAST_ACK, CLOSING: it has said its last (all from the kernel's `include/net/tcp_states.h`)."""


@dataclass(frozen=True, slots=True)
class _Socket:
    address: str
    port: str
    peer: str
    state: int


def connections_here() -> Connections:
    """Of the namespace that the calling thread is in. Without IPv6 there is one table less."""
    lines: list[str] = []
    for table in _TABLES:
        path = Path(table)
        if path.exists():
            lines += path.read_text().splitlines()[1:]
    return count_connections(lines)


def count_connections(lines: Iterable[str]) -> Connections:
    """Of the lines of the kernel's tables, without their headers."""
    sockets = list(_sockets(lines))
    served = {item.port for item in sockets if item.state == _LISTEN}
    from_outside = [item for item in sockets if item.peer != item.address]
    return Connections(
        open=sum(item.state in _OPEN and item.port in served for item in from_outside),
        closing=sum(item.state in _CLOSING for item in from_outside),
    )


def _sockets(lines: Iterable[str]) -> Iterator[_Socket]:
    for line in lines:
        _, local, remote, state, *_ = line.split()
        address, _, port = local.partition(":")
        yield _Socket(address, port, remote.partition(":")[0], int(state, 16))
