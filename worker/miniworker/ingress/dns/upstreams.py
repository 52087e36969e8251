"""Which servers are asked for names that are not ours: the client's own, else the host's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

HOST_RESOLV_CONF = Path("/etc/resolv.conf")

MOST_SERVERS = 3
"""Tried for one question; moby `libnetwork/resolver.go`, `maxExtDNS`."""


def nameservers(text: str) -> tuple[str, ...]:
    """The servers that a resolv.conf names, in its order."""
    lines = (line.split() for line in text.splitlines())
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")


def usable(servers: Iterable[str], *, own: frozenset[str]) -> tuple[str, ...]:
    """Those to ask: addresses, and not `own`, from which the question would only come back."""
    return tuple(server for server in servers if _is_address(server) and server not in own)[:MOST_SERVERS]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class HostServers:
    """The host's servers. The file is read again whenever it has changed."""

    def __init__(self, path: Path = HOST_RESOLV_CONF) -> None:
        self._path = path
        self._read_at: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        """None when the file cannot be read."""
        try:
            state = self._path.stat()
            version = (state.st_mtime_ns, state.st_ino, state.st_size)
            if version != self._read_at:
                self._servers = nameservers(self._path.read_text(errors="replace"))
                self._read_at = version
        except OSError:
            self._read_at, self._servers = None, ()
        return self._servers
