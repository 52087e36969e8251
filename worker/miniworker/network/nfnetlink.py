"""Transactions for nftables over netlink, in the network namespace of the calling thread.

A node changes the rules of many sandboxes at each change of a service. The program `nft` costs some 5 ms of processor
time for each; these are encoded in microseconds. What is written once per node is a script for `nft`.
Layouts and numbers are those of <linux/netfilter/nf_tables.h>; all integers are in network byte order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from miniworker.network.errors import NetworkError

FAMILY_IP, FAMILY_NETDEV = 2, 5

_NEW_TABLE, _DEL_TABLE = 0, 2
_NEW_CHAIN, _DEL_CHAIN = 3, 5
_NEW_RULE, _DEL_RULE = 6, 8
_NEW_SET, _NEW_ELEMENTS, _DEL_ELEMENTS = 9, 12, 14
_GET_GENERATION = 16

_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYSTEM = 10
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_ERROR_MESSAGE = 2
_NESTED = 0x8000

_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SO_SNDBUFFORCE = 32
_NETFILTER = 12

_SECONDS = 30.0
"""For an answer; the kernel gives it before `send` returns, unless it is in trouble."""

_ELEMENTS_AT_ONCE = 500
"""A nested attribute holds 64 KiB."""

SET_ANONYMOUS, SET_CONSTANT, SET_MAP = 0x1, 0x2, 0x8
TYPE_INTEGER, TYPE_IPV4 = 4, 7  # nft's own numbers, for whoever lists the rules
_VERDICT = 0xFFFFFF00
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)
"""User data of a set (libnftnl's udata): its keys are in the byte order of the host."""

_GOTO = -4
_REG_VERDICT, _REG = 0, 1


@dataclass(frozen=True, slots=True)
class Message:
    """One change of a transaction."""

    what: str
    """For the text of an error."""
    kind: int
    family: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the kernel enters a base chain by itself."""

    kind: str
    """"filter", "nat" or "route"."""
    number: int
    priority: int
    device: str = ""
    """Family netdev only."""


PREROUTING, LOCAL_IN, LOCAL_OUT = 0, 1, 3
NETDEV_EGRESS = 1


def commit(messages: Sequence[Message]) -> None:
    """Apply all of it or nothing. Raises NetworkError for the first that the kernel refuses."""
    if not messages:
        return
    last = len(messages)
    parts = [_encode(_BATCH_BEGIN, _REQUEST, 0, _header(0, _SUBSYSTEM))]
    for number, item in enumerate(messages, 1):
        # A refusal is told in any case. Only the last success: answers to all might not fit into the socket's buffer.
        flags = _REQUEST | item.flags | (_ACK if number == last else 0)
        parts.append(_encode(_SUBSYSTEM << 8 | item.kind, flags, number, _header(item.family, 0) + item.body))
    parts.append(_encode(_BATCH_END, _REQUEST, last + 1, _header(0, _SUBSYSTEM)))
    sequence, error = _exchange(b"".join(parts), last)
    if error:
        what = messages[sequence - 1].what if sequence else "change the rules"
        raise NetworkError(f"cannot {what}: {os.strerror(error)}")


def request(kind: int, flags: int, family: int, body: bytes) -> int:
    """One message of another subsystem; the kernel's error number, 0 for none."""
    return _exchange(_encode(kind, _REQUEST | _ACK | flags, 1, _header(family, 0) + body), 1)[1]


def generation() -> int:
    """A number that grows by one with each transaction, whoever's it is."""
    data = _encode(_SUBSYSTEM << 8 | _GET_GENERATION, _REQUEST, 1, _header(0, 0))
    try:
        with _socket() as link:
            link.send(data)
            answer = link.recv(65536)
    except OSError as error:
        raise NetworkError(f"the kernel does not answer on netlink: {error}") from error
    (value,) = struct.unpack_from("!I", answer, 24)  # the first attribute, after both headers
    return int(value)


def _exchange(data: bytes, last: int) -> tuple[int, int]:
    """(sequence, error number) of the first refusal, or that of the message `last` and 0."""
    try:
        with _socket() as link:
            link.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data) + 65536)
            link.send(data)
            while True:
                for sequence, error in _answers(link.recv(65536)):
                    if error or sequence == last:
                        return sequence, error
    except OSError as error:
        raise NetworkError(f"the kernel does not answer on netlink: {error}") from error


def _socket() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    link.settimeout(_SECONDS)
    link.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    link.bind((0, 0))
    return link


def _answers(data: bytes) -> list[tuple[int, int]]:
    answers: list[tuple[int, int]] = []
    offset = 0
    while offset < len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if kind == _ERROR_MESSAGE:
            answers.append((sequence, -struct.unpack_from("=i", data, offset + 16)[0]))
        offset += (length + 3) & ~3
    return answers


# --- tables, chains, rules, sets ---


def new_table(family: int, table: str) -> Message:
    return Message(f"make the table {table}", _NEW_TABLE, family, _CREATE, text(1, table))


def delete_table(family: int, table: str) -> Message:
    return Message(f"remove the table {table}", _DEL_TABLE, family, 0, text(1, table))


def new_chain(family: int, table: str, chain: str, hook: Hook | None = None) -> Message:
    body = text(1, table) + text(3, chain)
    if hook is not None:
        where = number(1, hook.number) + number(2, hook.priority)
        if hook.device:
            where += text(3, hook.device)
        body += nest(4, where) + number(5, 1) + text(7, hook.kind)  # policy 1: accept
    return Message(f"make the chain {chain}", _NEW_CHAIN, family, _CREATE, body)


def delete_chain(family: int, table: str, chain: str) -> Message:
    return Message(f"remove the chain {chain}", _DEL_CHAIN, family, 0, text(1, table) + text(3, chain))


def flush_chain(family: int, table: str, chain: str) -> Message:
    return Message(f"empty the chain {chain}", _DEL_RULE, family, 0, text(1, table) + text(2, chain))


def new_rule(family: int, table: str, chain: str, *expressions: bytes) -> Message:
    body = text(1, table) + text(2, chain) + nest(4, b"".join(nest(1, item) for item in expressions))
    return Message(f"add a rule to {chain}", _NEW_RULE, family, _CREATE | 0x800, body)  # 0x800: append


def new_verdict_map(table: str, name: str, *, identifier: int) -> Message:
    """A named map from IPv4 addresses to chains."""
    body = text(1, table) + text(2, name) + number(3, SET_MAP) + number(4, TYPE_IPV4) + number(5, 4)
    body += number(6, _VERDICT) + number(7, 0) + number(10, identifier)
    return Message(f"make the map {name}", _NEW_SET, FAMILY_IP, _CREATE, body)


def new_choice(table: str, backends: Sequence[IPv4Address], *, identifier: int) -> list[Message]:
    """An anonymous map from 0, 1, 2... to addresses, for one rule of the same transaction."""
    name = "__map%d"
    body = text(1, table) + text(2, name) + number(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP)
    body += number(4, TYPE_INTEGER) + number(5, 4) + number(6, TYPE_IPV4) + number(7, 4)
    body += number(10, identifier) + attribute(13, _HOST_ORDER)
    elements = [
        nest(1, _value(struct.pack("=I", place))) + nest(2, _value(address.packed))
        for place, address in enumerate(backends)
    ]
    made = Message("make a map of backends", _NEW_SET, FAMILY_IP, _CREATE, body)
    return [made, *_elements(_NEW_ELEMENTS, table, name, elements, identifier=identifier)]


def add_chains(table: str, name: str, chains: Sequence[tuple[IPv4Address, str]]) -> list[Message]:
    """Elements of a verdict map."""
    elements = [
        nest(1, _value(address.packed)) + nest(2, nest(2, number(1, _GOTO) + text(2, chain)))
        for address, chain in chains
    ]
    return _elements(_NEW_ELEMENTS, table, name, elements)


def delete_elements(table: str, name: str, addresses: Sequence[IPv4Address]) -> list[Message]:
    return _elements(_DEL_ELEMENTS, table, name, [nest(1, _value(item.packed)) for item in addresses])


def _elements(
    kind: int, table: str, name: str, elements: Sequence[bytes], *, identifier: int = 0
) -> list[Message]:
    head = text(1, table) + text(2, name) + (number(4, identifier) if identifier else b"")
    flags = _CREATE if kind == _NEW_ELEMENTS else 0
    return [
        Message(
            f"change the elements of {name}",
            kind,
            FAMILY_IP,
            flags,
            head + nest(3, b"".join(nest(1, item) for item in elements[start : start + _ELEMENTS_AT_ONCE])),
        )
        for start in range(0, len(elements), _ELEMENTS_AT_ONCE)
    ]


# --- expressions; all work on one register ---

LINK_LAYER, NETWORK_LAYER = 0, 1
META_MARK, META_IIFNAME, META_L4PROTO = 3, 6, 16
CT_STATE, CT_MARK, CT_ZONE = 0, 3, 17
STATE_NEW = struct.pack("=I", 8)


def load_value(value: bytes) -> bytes:
    return _expression("immediate", number(1, _REG) + nest(2, _value(value)))


def load_payload(layer: int, offset: int, length: int) -> bytes:
    return _expression("payload", number(1, _REG) + number(2, layer) + number(3, offset) + number(4, length))


def set_payload(layer: int, offset: int, length: int) -> bytes:
    body = number(5, _REG) + number(2, layer) + number(3, offset) + number(4, length)
    return _expression("payload", body + number(6, 0) + number(7, 0) + number(8, 0))  # no checksum


def load_meta(key: int) -> bytes:
    return _expression("meta", number(1, _REG) + number(2, key))


def set_meta(key: int) -> bytes:
    return _expression("meta", number(2, key) + number(3, _REG))


def load_ct(key: int) -> bytes:
    return _expression("ct", number(1, _REG) + number(2, key))


def set_ct(key: int) -> bytes:
    return _expression("ct", number(2, key) + number(4, _REG))


def set_original_zone() -> bytes:
    """Of the original direction only: answers are in the default zone."""
    return _expression("ct", number(2, CT_ZONE) + attribute(3, b"\0") + number(4, _REG))


def equals(value: bytes) -> bytes:
    return _expression("cmp", number(1, _REG) + number(2, 0) + nest(3, _value(value)))


def differs(value: bytes) -> bytes:
    return _expression("cmp", number(1, _REG) + number(2, 1) + nest(3, _value(value)))


def masked(mask: bytes) -> bytes:
    body = number(1, _REG) + number(2, _REG) + number(3, len(mask))
    return _expression("bitwise", body + nest(4, _value(mask)) + nest(5, _value(bytes(len(mask)))))


def verdict_of(name: str, *, identifier: int) -> bytes:
    return _expression(
        "lookup", text(1, name) + number(2, _REG) + number(3, _REG_VERDICT) + number(4, identifier)
    )


def chosen_from(identifier: int) -> bytes:
    """What an anonymous map of the same transaction has for the register."""
    body = text(1, "__map%d") + number(2, _REG) + number(3, _REG) + number(4, identifier)
    return _expression("lookup", body)


def next_of(count: int) -> bytes:
    """0, 1, ... `count` - 1 and from the beginning, one for each packet that comes here."""
    return _expression("numgen", number(1, _REG) + number(2, count) + number(3, 0) + number(4, 0))


def dnat() -> bytes:
    return _expression("nat", number(1, 1) + number(2, FAMILY_IP) + number(3, _REG) + number(4, _REG))


def reject_tcp() -> bytes:
    return _expression("reject", number(1, 1) + attribute(2, b"\0"))


def reject_port() -> bytes:
    """ICMP: port unreachable."""
    return _expression("reject", number(1, 0) + attribute(2, b"\3"))


def interface(name: str) -> bytes:
    """An interface's name as the kernel compares it."""
    return name.encode().ljust(16, b"\0")


def _expression(name: str, data: bytes) -> bytes:
    return text(1, name) + nest(2, data)


def _value(data: bytes) -> bytes:
    return attribute(1, data)


# --- encoding ---


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nest(kind: int, content: bytes) -> bytes:
    return attribute(kind | _NESTED, content)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _header(family: int, resource: int) -> bytes:
    return struct.pack("!BBH", family, 0, resource)


def _encode(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
