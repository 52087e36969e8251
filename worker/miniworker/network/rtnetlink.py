"""Requests to the kernel's routing socket, many in one system call.

Making one sandbox takes dozens of requests. pyroute2 spends some 0.4 ms of Python on each; these are encoded in
microseconds and go out together. What is read back, and what is made once per network, goes through pyroute2.
Layouts and numbers are those of <linux/rtnetlink.h>, <linux/if_link.h>, <linux/neighbour.h> and <linux/fib_rules.h>.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from miniworker.network.errors import NetworkError

AF_BRIDGE = 7

_NEW_LINK, _DEL_LINK, _SET_LINK = 16, 17, 19
_NEW_ADDRESS, _DEL_ADDRESS = 20, 21
_NEW_ROUTE = 24
_NEW_NEIGHBOR, _DEL_NEIGHBOR = 28, 29
_NEW_RULE = 32

GET_LINKS, GET_ADDRESSES, GET_ROUTES, GET_NEIGHBORS, GET_RULES = 18, 22, 26, 30, 34

_REQUEST, _ACK = 0x1, 0x4
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_DUMP = 0x300
_NESTED = 0x8000
_INVERT = 0x2  # of a rule

_ERROR_MESSAGE, _DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10

_AT_ONCE = 64
"""Requests sent before their answers are read: these must fit into a socket's default buffer of 208 KiB."""

_SECONDS = 30.0
"""For an answer; the kernel gives it before `send` returns, unless it is in trouble."""

BRIDGE_PORT_FLAGS = {
    "learning": 8,
    "unicast_flood": 9,
    "proxyarp": 10,
    "mcast_flood": 27,
    "bcast_flood": 30,
    "neigh_suppress": 32,
    "isolated": 33,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One change."""

    what: str
    """For the text of an error: "add the route ..."."""
    kind: int
    flags: int
    body: bytes
    accepted: frozenset[int] = frozenset()
    """Error numbers that mean it is already so."""


def send(requests: Sequence[Request]) -> None:
    """Carry out the requests in the calling thread's network namespace, in order.

    The kernel tries each, whatever became of those before. Raises NetworkError for the first that failed.
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as link:
        link.settimeout(_SECONDS)
        link.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        link.bind((0, 0))
        problems = [
            problem
            for start in range(0, len(requests), _AT_ONCE)
            for problem in _exchange(link, requests[start : start + _AT_ONCE])
        ]
    if problems:
        raise NetworkError(problems[0])


def _exchange(link: socket.socket, requests: Sequence[Request]) -> list[str]:
    """What went wrong, in the order of the requests."""
    problems: list[str] = []
    try:
        link.send(b"".join(_message(request, number) for number, request in enumerate(requests)))
        answered = 0
        while answered < len(requests):
            for sequence, error in _answers(link.recv(65536)):
                answered += 1
                request = requests[sequence]
                if error and error not in request.accepted:
                    problems.append(f"cannot {request.what}: {os.strerror(error)}")
    except OSError as error:
        raise NetworkError(f"the kernel does not answer on netlink: {error}") from error
    return problems


def _message(request: Request, sequence: int) -> bytes:
    flags = _REQUEST | _ACK | request.flags
    return struct.pack("=IHHII", 16 + len(request.body), request.kind, flags, sequence, 0) + request.body


def _answers(data: bytes) -> list[tuple[int, int]]:
    """(sequence, error number or 0) of each message of a datagram."""
    answers: list[tuple[int, int]] = []
    offset = 0
    while offset < len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if kind == _ERROR_MESSAGE:
            answers.append((sequence, -struct.unpack_from("=i", data, offset + 16)[0]))
        offset += (length + 3) & ~3
    return answers


@dataclass(frozen=True, slots=True)
class Dumped:
    """One object of the kernel."""

    head: bytes
    """The fixed part."""
    attributes: dict[int, bytes]

    def number(self, kind: int) -> int:
        """0 when there is no such attribute."""
        return int.from_bytes(self.attributes.get(kind, b""), sys.byteorder)

    def text(self, kind: int) -> str:
        return self.attributes.get(kind, b"").rstrip(b"\0").decode()

    def address(self, kind: int) -> IPv4Address | None:
        value = self.attributes.get(kind)
        return IPv4Address(value) if value else None

    def mac(self, kind: int) -> str:
        return self.attributes.get(kind, b"").hex(":")


def dump(kind: int, family: int) -> list[Dumped]:
    """All objects of a kind (`GET_LINKS`...) in the calling thread's network namespace.

    Of several thousand neighbors this takes milliseconds; pyroute2 takes a second.
    """
    size = _HEADS[kind]
    found: list[Dumped] = []
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as link:
            link.settimeout(_SECONDS)
            link.bind((0, 0))
            body = bytes([family]) + bytes(size - 1)
            link.send(struct.pack("=IHHII", 16 + size, kind, _REQUEST | _DUMP, 0, 0) + body)
            while True:
                data = link.recv(1 << 17)
                offset = 0
                while offset < len(data):
                    length, answer = struct.unpack_from("=IH", data, offset)
                    if answer in (_DONE, _ERROR_MESSAGE):
                        return found
                    start = offset + 16
                    found.append(
                        Dumped(data[start : start + size], attributes(data[start + size : offset + length]))
                    )
                    offset += (length + 3) & ~3
    except OSError as error:
        raise NetworkError(f"the kernel does not answer on netlink: {error}") from error


def attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += max((length + 3) & ~3, 4)
    return found


_HEADS = {GET_LINKS: 16, GET_ADDRESSES: 8, GET_ROUTES: 12, GET_NEIGHBORS: 12, GET_RULES: 12}
"""Bytes of the fixed part."""


# --- links ---


def add_veth(port: str, *, bridge: int, mtu: int, peer: str, peer_mac: str, namespace: int) -> Request:
    """A pair of devices: `port` here, on the bridge with index `bridge`; the other in the namespace of a descriptor."""
    other = _link() + _text(3, peer) + _mac(1, peer_mac) + _number(4, mtu) + _number(28, namespace)
    info = _attribute(1, b"veth") + _nest(2, _nest(1, other))
    body = _link() + _text(3, port) + _number(4, mtu) + _number(10, bridge) + _nest(18, info)
    return Request(f"make the interface {port}", _NEW_LINK, _CREATE | _EXCLUSIVE, body)


def add_bridge(name: str) -> Request:
    body = _link() + _text(3, name) + _nest(18, _attribute(1, b"bridge"))
    return Request(f"make the bridge {name}", _NEW_LINK, _CREATE | _EXCLUSIVE, body)


def set_up(index: int) -> Request:
    return Request(f"bring interface {index} up", _SET_LINK, 0, _link(index, flags=1, change=1))


def set_mtu(index: int, mtu: int) -> Request:
    what = f"set the mtu of interface {index} to {mtu}"
    return Request(what, _SET_LINK, 0, _link(index) + _number(4, mtu))


def set_master(index: int, bridge: int) -> Request:
    what = f"make interface {index} a port of the bridge {bridge}"
    return Request(what, _SET_LINK, 0, _link(index) + _number(10, bridge))


def set_bridge_port(index: int, flags: Mapping[str, int]) -> Request:
    """Options of a bridge's port, named as in `BRIDGE_PORT_FLAGS`."""
    options = b"".join(_attribute(BRIDGE_PORT_FLAGS[name], bytes([value])) for name, value in flags.items())
    body = _link(index, family=AF_BRIDGE) + _nest(12, options)
    return Request(f"set options of the bridge port {index}", _SET_LINK, 0, body)


def set_group(index: int, group: int, *, accepted: frozenset[int] = frozenset()) -> Request:
    body = _link(index) + _number(27, group)
    return Request(f"put interface {index} into group {group}", _SET_LINK, 0, body, accepted)


def delete_group(group: int, *, accepted: frozenset[int] = frozenset()) -> Request:
    """All interfaces of a group; the kernel waits once, not once for each."""
    body = _link() + _number(27, group)
    return Request(f"remove the interfaces of group {group}", _DEL_LINK, 0, body, accepted)


# --- addresses, neighbors, routes ---


def add_address(index: int, address: IPv4Address, prefix: int) -> Request:
    """An address that is there already is what was asked for."""
    body = _interface_address(index, address, prefix)
    exists = frozenset({errno.EEXIST})
    return Request(f"add the address {address}/{prefix}", _NEW_ADDRESS, _CREATE | _EXCLUSIVE, body, exists)


def delete_address(index: int, address: IPv4Address, prefix: int, *, accepted: frozenset[int]) -> Request:
    body = _interface_address(index, address, prefix)
    return Request(f"remove the address {address}/{prefix}", _DEL_ADDRESS, 0, body, accepted)


def put_neighbor(index: int, address: IPv4Address, mac: str, *, state: int) -> Request:
    body = _neighbor(socket.AF_INET, index, state) + _address(1, address) + _mac(2, mac)
    return Request(f"add the neighbor {address}", _NEW_NEIGHBOR, _CREATE | _REPLACE, body)


def delete_neighbor(index: int, address: IPv4Address, *, accepted: frozenset[int]) -> Request:
    body = _neighbor(socket.AF_INET, index, 0) + _address(1, address)
    return Request(f"remove the neighbor {address}", _DEL_NEIGHBOR, 0, body, accepted)


def put_forwarding(
    index: int, mac: str, *, state: int, flags: int, vtep: IPv4Address | None = None, via: int = 0
) -> Request:
    """A forwarding entry of a bridge or of a tunnel device; `via`: the interface that leads to the vtep."""
    body = _neighbor(AF_BRIDGE, index, state, flags) + _mac(2, mac) + _optional(1, vtep) + _via(via)
    return Request(f"add the forwarding entry {mac}", _NEW_NEIGHBOR, _CREATE | _REPLACE, body)


def delete_forwarding(
    index: int,
    mac: str,
    *,
    flags: int,
    accepted: frozenset[int],
    vtep: IPv4Address | None = None,
    via: int = 0,
) -> Request:
    body = _neighbor(AF_BRIDGE, index, 0, flags) + _mac(2, mac) + _optional(1, vtep) + _via(via)
    return Request(f"remove the forwarding entry {mac}", _DEL_NEIGHBOR, 0, body, accepted)


def put_default_route(
    gateway: IPv4Address, *, table: int = 254, index: int = 0, source: IPv4Address | None = None
) -> Request:
    """`table` 254 is the main one; `source`: the address of sockets that are not bound to one."""
    body = _route() + _address(5, gateway) + _number(15, table) + _optional(7, source)
    if index:
        body += _number(4, index)
    return Request(f"add the default route via {gateway}", _NEW_ROUTE, _CREATE | _REPLACE, body)


def add_marked_rule(table: int, *, priority: int) -> Request:
    """Packets with any mark use the routing table."""
    body = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 1, _INVERT
    )  # action 1: look up a table
    body += _number(6, priority) + _number(10, 0) + _number(16, 0xFFFFFFFF) + _number(15, table)
    exists = frozenset({errno.EEXIST})
    return Request("add the rule for marked packets", _NEW_RULE, _CREATE | _EXCLUSIVE, body, exists)


# --- encoding ---


def _link(index: int = 0, *, family: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def _interface_address(index: int, address: IPv4Address, prefix: int) -> bytes:
    head = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index)
    return head + _address(1, address) + _address(2, address)


def _neighbor(family: int, index: int, state: int, flags: int = 0) -> bytes:
    return struct.pack("=BxxxiHBB", family, index, state, flags, 0)


def _route() -> bytes:
    """To everywhere; the table is an attribute, set by an administrator (protocol 4: static), unicast."""
    return struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 4, 0, 1, 0)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _nest(kind: int, content: bytes) -> bytes:
    return _attribute(kind | _NESTED, content)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _mac(kind: int, value: str) -> bytes:
    return _attribute(kind, bytes.fromhex(value.replace(":", "")))


def _address(kind: int, value: IPv4Address) -> bytes:
    return _attribute(kind, value.packed)


def _optional(kind: int, value: IPv4Address | None) -> bytes:
    return _address(kind, value) if value is not None else b""


def _via(index: int) -> bytes:
    return _number(8, index) if index else b""
