"""The DNS messages that the server reads and writes itself: one question; A and PTR answers; EDNS0. Pure.

RFC 1035 and RFC 6891. What is forwarded is not read beyond its question: the bytes pass as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

TYPE_A = 1
TYPE_PTR = 12
TYPE_AAAA = 28
TYPE_ANY = 255
CLASS_IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
"""An extended code: its upper bits are in the OPT record."""

HEADER_BYTES = 12
PLAIN_BYTES = 512
"""The largest answer over udp to a client that does not say how much it takes (RFC 1035)."""
EDNS_BYTES = 1232
"""The largest that we send over udp at all: it fits every path unfragmented (DNS flag day 2020)."""
STREAM_BYTES = 65535
"""The largest message over tcp: its length has 16 bits."""

_QR, _OPCODE, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_TYPE_OPT = 41
_NAME_BYTES, _LABEL_BYTES, _POINTER = 255, 63, 0xC0
_HEADER = struct.Struct(">6H")
_FIXED = struct.Struct(">HHIH")
_TO_THE_QUESTION = b"\xc0\x0c"
"""A pointer to the name in the question, with which every answer begins."""


class FormatError(ValueError):
    """The bytes are not a DNS question."""


@dataclass(frozen=True, slots=True)
class Query:
    id: int
    flags: int
    name: str
    """Lower case, without the final dot. A dot inside a label is written "\\."; so it matches no name of ours."""
    type: int
    klass: int
    question: bytes
    """As it was asked, upper and lower case kept: the answer repeats it."""
    udp_bytes: int
    """The largest answer that the client takes over udp."""
    edns_version: int | None
    """None: the client does not speak EDNS."""

    @property
    def opcode(self) -> int:
        """0: a question."""
        return (self.flags & _OPCODE) >> 11


def read_query(packet: bytes) -> Query:
    """Raises FormatError."""
    try:
        return _read_query(packet)
    except (struct.error, IndexError) as error:
        raise FormatError("the message ends too early") from error


def _read_query(packet: bytes) -> Query:
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _QR:
        raise FormatError("an answer, not a question")
    if questions != 1:
        raise FormatError(f"one question expected, got {questions}")
    name, end = _read_name(packet, HEADER_BYTES)
    kind, klass = struct.unpack_from(">HH", packet, end)
    end += 4
    question = packet[HEADER_BYTES:end]
    size, version = PLAIN_BYTES, None
    for number in range(answers + authorities + additional):
        start, end = end, _skip_name(packet, end)
        type_, size_, ttl, length = _FIXED.unpack_from(packet, end)
        end += _FIXED.size + length
        if type_ == _TYPE_OPT:
            if version is not None or packet[start] != 0 or number < answers + authorities:
                raise FormatError("more than one OPT record, or one in a wrong place")
            size, version = max(size_, PLAIN_BYTES), ttl >> 16 & 0xFF
    if end != len(packet):
        raise FormatError("the message does not end where its records end")
    return Query(ident, flags, name, kind, klass, question, size, version)


def is_answer(packet: bytes) -> bool:
    """Whether the QR bit says so; such a message is never answered, or two servers could go on for ever."""
    return len(packet) < HEADER_BYTES or bool(packet[2] & 0x80)


def format_error(packet: bytes) -> bytes:
    """The answer to bytes that are no question: a bare header. The packet has one."""
    ident, flags = struct.unpack_from(">HH", packet)
    return _HEADER.pack(ident, _QR | (flags & (_OPCODE | _RD)) | FORMERR, 0, 0, 0, 0)


def reply(query: Query, code: int, records: Sequence[bytes] = (), *, limit: int, own: bool = False) -> bytes:
    """The answer to a question, no longer than `limit` bytes: records that do not fit are left out, and TC says so.

    `own`: we are the authority for the name.
    """
    tail = b""
    if query.edns_version is not None:
        tail = b"\0" + _FIXED.pack(_TYPE_OPT, EDNS_BYTES, code >> 4 << 24, 0)
    flags = _QR | _RA | (query.flags & (_OPCODE | _RD | _CD)) | (code & 0xF)
    if own:
        flags |= _AA
    room = limit - HEADER_BYTES - len(query.question) - len(tail)
    fitting = records
    if sum(map(len, records)) > room:
        fitting = _fitting(records, room)
        flags |= _TC
    header = _HEADER.pack(query.id, flags, 1, len(fitting), 0, 1 if tail else 0)
    return b"".join((header, query.question, *fitting, tail))


def _fitting(records: Sequence[bytes], room: int) -> Sequence[bytes]:
    for number, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return records[:number]
    return records


def address_record(address: IPv4Address, *, ttl: int) -> bytes:
    """An A record of the name in the question. `ttl` in seconds."""
    return _record(TYPE_A, address.packed, ttl)


def pointer_record(name: str, *, ttl: int) -> bytes:
    """A PTR record of the name in the question. `ttl` in seconds. Raises ValueError for what is no DNS name."""
    return _record(TYPE_PTR, encode_name(name), ttl)


def _record(kind: int, data: bytes, ttl: int) -> bytes:
    return _TO_THE_QUESTION + _FIXED.pack(kind, CLASS_IN, ttl, len(data)) + data


def encode_name(name: str) -> bytes:
    """Raises ValueError for what is no DNS name: labels of 1 to 63 bytes, 255 bytes in all."""
    labels = [label.encode() for label in name.split(".")]
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(encoded) > _NAME_BYTES or not all(1 <= len(label) <= _LABEL_BYTES for label in labels):
        raise ValueError(f"not a DNS name: {name!r}")
    return encoded


def is_name(name: str) -> bool:
    """Whether DNS can carry it."""
    try:
        encode_name(name)
    except ValueError:
        return False
    return True


# --- what is forwarded ---


def with_id(packet: bytes, ident: int) -> bytes:
    """The same message under another id."""
    return ident.to_bytes(2, "big") + packet[2:]


def answers(packet: bytes, ident: int, question: bytes) -> bool:
    """Whether this is the answer to the question that was sent under this id; the case of letters may differ."""
    if len(packet) < HEADER_BYTES:
        return False
    got, flags, questions = struct.unpack_from(">HHH", packet)
    asked = packet[HEADER_BYTES : HEADER_BYTES + len(question)]
    return got == ident and bool(flags & _QR) and questions == 1 and asked.lower() == question.lower()


def code_of(packet: bytes) -> int:
    """The answer's code, without the bits that EDNS adds."""
    return packet[3] & 0xF


# --- names ---


def _read_name(packet: bytes, at: int) -> tuple[str, int]:
    """A name without compression (in a question nothing precedes that could be pointed to), and where it ends."""
    start, labels = at, []
    while length := packet[at]:
        if length > _LABEL_BYTES:
            raise FormatError("a label of the question is longer than 63 bytes or compressed")
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
    if at + 1 - start > _NAME_BYTES:
        raise FormatError("a name longer than 255 bytes")
    name = b".".join(labels)
    if name.count(b".") >= max(len(labels), 1):
        name = b".".join(label.replace(b".", b"\\.") for label in labels)
    return name.lower().decode("latin-1"), at + 1


def _skip_name(packet: bytes, at: int) -> int:
    while length := packet[at]:
        if length >= _POINTER:
            return at + 2
        if length > _LABEL_BYTES:
            raise FormatError("an unknown kind of label")
        at += 1 + length
    return at + 1
