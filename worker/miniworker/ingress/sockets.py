"""Sockets that reserve a published port for this node, on IPv4 and, where the machine has it, IPv6."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from minicommon.errors import MiniError

from miniworker.ingress.table import PortKey
from miniworker.network.ports import port_holder

BACKLOG = 1024

KEEP_IDLE_SECONDS = 60
"""Without a byte for so long, the other side is asked whether it is still there."""

KEEP_INTERVAL_SECONDS = 10
KEEP_COUNT = 6
"""Questions without an answer until the connection is given up."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # <linux/in.h> and <linux/in6.h>; Python does not name them


class PortTakenError(MiniError):
    """The port cannot be had on this node; the text says who has it."""


def bind_all(key: PortKey, host_ip: IPv4Address | IPv6Address | None = None) -> list[socket.socket]:
    """One socket per address family, or one at `host_ip`, bound and not blocking. Raises PortTakenError.

    The node need not have that address now: one that moves between nodes is served where it is.
    """
    bound: list[socket.socket] = []
    try:
        if host_ip is not None:
            return [_bind(_family(host_ip), str(host_ip), key)]
        bound.append(_bind(socket.AF_INET, str(IPv4Address(0)), key))
        try:
            bound.append(_bind(socket.AF_INET6, "::", key))
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    except OSError as error:
        for item in bound:
            item.close()
        raise PortTakenError(_reason(key, error)) from error
    return bound


def keep_alive(item: socket.socket) -> None:
    """Send at once, and notice a peer that is gone. What a listener accepts inherits this."""
    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    item.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_SECONDS)
    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL_SECONDS)
    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)


def _bind(family: int, address: str, key: PortKey) -> socket.socket:
    kind = socket.SOCK_STREAM if key.protocol == "tcp" else socket.SOCK_DGRAM
    item = socket.socket(family, kind)
    try:
        item.setblocking(False)
        if kind == socket.SOCK_STREAM:  # for udp it would let two processes share the port
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keep_alive(item)
        if family == socket.AF_INET6:
            item.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _allow_foreign_address(item)
        item.bind((address, key.port))
        if kind == socket.SOCK_STREAM:
            item.listen(BACKLOG)
    except OSError:
        item.close()
        raise
    return item


def _allow_foreign_address(item: socket.socket) -> None:
    if item.family == socket.AF_INET6:
        item.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        item.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _reason(key: PortKey, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"port {key} cannot be opened on this node: {error.strerror}"
    return f"port {key} is in use on this node by {port_holder(key.protocol, key.port)}"
