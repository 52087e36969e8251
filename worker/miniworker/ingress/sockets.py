"""Sockets that reserve a published port for this node, on IPv4 and, where the machine has it, IPv6."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address

from minicommon.errors import MiniError

from miniworker.ingress.table import PortKey
from miniworker.network.ports import port_holder

BACKLOG = 1024

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class PortTakenError(MiniError):
    """The port cannot be had on this node; the text says who has it."""


def bind_all(key: PortKey) -> list[socket.socket]:
    """One socket per address family, bound and not blocking. Raises PortTakenError."""
    bound: list[socket.socket] = []
    try:
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


def _bind(family: int, address: str, key: PortKey) -> socket.socket:
    kind = socket.SOCK_STREAM if key.protocol == "tcp" else socket.SOCK_DGRAM
    item = socket.socket(family, kind)
    try:
        item.setblocking(False)
        if kind == socket.SOCK_STREAM:  # for udp it would let two processes share the port
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            item.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        item.bind((address, key.port))
        if kind == socket.SOCK_STREAM:
            item.listen(BACKLOG)
    except OSError:
        item.close()
        raise
    return item


def _reason(key: PortKey, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"port {key} cannot be opened on this node: {error.strerror}"
    return f"port {key} is in use on this node by {port_holder(key.protocol, key.port)}"
