"""A port of loopback that nobody has at the moment of asking; the caller binds it next."""

from __future__ import annotations

import socket


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """The number of a free tcp (or, with SOCK_DGRAM, udp) port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
