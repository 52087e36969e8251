"""The header of the PROXY protocol, version 2: pure.

It tells a server behind a proxy whom the connection really comes from, as haproxy, nginx and Envoy read and write it
(https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, section 2.2).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_AND_PROXY = 0x21
_TCP4, _TCP6 = 0x11, 0x21


def proxy_header(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """(address, port) of the client, and those that it asked for: both of one family, or IPv4 mapped into IPv6."""
    client, asked = _address(source[0]), _address(destination[0])
    kind = _TCP4 if client.version == 4 else _TCP6
    body = client.packed + asked.packed + struct.pack("!HH", source[1], destination[1])
    return _SIGNATURE + struct.pack("!BBH", _VERSION_AND_PROXY, kind, len(body)) + body


def _address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
