"""The bytes on the wire, against dnspython."""

from __future__ import annotations

from ipaddress import IPv4Address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.ingress.dns import wire

labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=6).filter(lambda parts: sum(len(part) + 1 for part in parts) < 255)


def packet(name: str = "web", kind: str = "A", *, edns: int | bool = False, payload: int = 1400) -> bytes:
    query = dns.message.make_query(name, kind, use_edns=edns, payload=payload)
    return query.to_wire()


@given(names, st.sampled_from(list(dns.rdatatype.RdataType)), st.one_of(st.none(), st.integers(0, 65535)))
def test_questions_are_read_as_dnspython_writes_them(
    parts: list[bytes], kind: dns.rdatatype.RdataType, payload: int | None
) -> None:
    name = dns.name.Name([*parts, b""])
    query = dns.message.make_query(name, kind, use_edns=payload is not None, payload=payload)
    read = wire.read_query(query.to_wire())
    assert (read.id, read.type, read.klass, read.opcode) == (query.id, kind, dns.rdataclass.IN, 0)
    assert read.question == (name.to_wire() or b"") + kind.to_bytes(2, "big") + b"\0\1"
    assert read.udp_bytes == max(payload or 0, 512)
    assert read.edns_version == (None if payload is None else 0)
    plain = b".".join(parts).lower().decode("latin-1")
    assert (read.name == plain) == (not any(b"." in part for part in parts))


def test_a_dot_inside_a_label_makes_no_name_of_ours() -> None:
    query = dns.message.make_query(dns.name.Name([b"web.1", b""]), "A")
    assert wire.read_query(query.to_wire()).name == "web\\.1"


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_answers_are_read_by_dnspython(count: int, edns: bool) -> None:
    query = dns.message.make_query("WeB.Backend", "A", use_edns=edns, flags=dns.flags.RD)
    records = [wire.address_record(IPv4Address(f"10.0.1.{last}"), ttl=5) for last in range(count)]
    read = wire.read_query(query.to_wire())
    answer = dns.message.from_wire(wire.reply(read, wire.NOERROR, records, limit=512, own=True))
    assert query.is_response(answer)
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.AA
    assert answer.edns == (0 if edns else -1)
    assert answer.question[0].name.to_text() == "WeB.Backend."
    expected = "\n".join(f"WeB.Backend. 5 IN A 10.0.1.{last}" for last in range(count))
    assert "\n".join(group.to_text() for group in answer.answer) == expected


def test_the_name_of_an_address() -> None:
    query = dns.message.make_query("5.1.0.10.in-addr.arpa", "PTR")
    record = wire.pointer_record("web.1.abc.backend", ttl=0)
    answer = dns.message.from_wire(wire.reply(wire.read_query(query.to_wire()), 0, [record], limit=512))
    assert answer.answer[0].to_text() == "5.1.0.10.in-addr.arpa. 0 IN PTR web.1.abc.backend."


@given(st.integers(0, 200), st.integers(60, 2000), st.booleans())
def test_an_answer_is_never_longer_than_allowed_and_says_when_it_is_cut(
    count: int, limit: int, edns: bool
) -> None:
    records = [wire.address_record(IPv4Address(last), ttl=0) for last in range(count)]
    data = wire.reply(wire.read_query(packet(edns=edns)), 0, records, limit=limit)
    answer = dns.message.from_wire(data)
    got = sum(len(group) for group in answer.answer)
    assert len(data) <= limit
    assert bool(answer.flags & dns.flags.TC) == (got < count)
    assert got == count or len(data) + len(records[0]) > limit


@pytest.mark.parametrize("code", [wire.NXDOMAIN, wire.REFUSED, wire.SERVFAIL, wire.NOTIMP])
def test_codes(code: int) -> None:
    answer = wire.reply(wire.read_query(packet()), code, limit=512)
    assert dns.message.from_wire(answer).rcode() == code == wire.code_of(answer)


def test_an_unknown_version_of_edns_has_a_code_of_more_bits() -> None:
    read = wire.read_query(packet(edns=1))
    assert read.edns_version == 1
    answer = dns.message.from_wire(wire.reply(read, wire.BADVERS, limit=512))
    assert answer.rcode() == dns.rcode.BADVERS


GOOD = packet()
OPT = packet(edns=True)[len(GOOD) :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:11],
        GOOD[:12],
        GOOD[:-1],
        GOOD + b"x",
        GOOD[:4] + b"\0\0" + GOOD[6:],
        GOOD[:4] + b"\0\2" + GOOD[6:],
        GOOD[:11] + b"\1" + GOOD[12:],
        GOOD[:2] + b"\x81" + GOOD[3:],
        GOOD[:12] + b"\xc0\x0c" + GOOD[-4:],
        GOOD[:12] + b"\x40" + b"x" * 64 + b"\0" + GOOD[-4:],
        GOOD[:12] + (b"\x3f" + b"x" * 63) * 4 + b"\0" + GOOD[-4:],
        GOOD[:10] + b"\0\2" + GOOD[12:] + OPT + OPT,
        GOOD[:10] + b"\0\1" + GOOD[12:] + b"\x01x" + OPT,
        GOOD[:6] + b"\0\1" + GOOD[8:] + OPT,
        GOOD[:10] + b"\0\1" + GOOD[12:] + b"\x80" + OPT,
    ],
)
def test_what_is_no_question(data: bytes) -> None:
    with pytest.raises(wire.FormatError):
        wire.read_query(data)


def test_records_other_than_opt_are_passed_over() -> None:
    record = b"\xc0\x0c" + GOOD[-4:] + bytes(4) + b"\0\2ab"
    named = b"\3web\0" + GOOD[-4:] + bytes(4) + b"\0\0"
    data = GOOD[:10] + b"\0\3" + GOOD[12:] + record + named + OPT
    assert wire.read_query(data).edns_version == 0


def test_a_format_error_is_a_bare_header() -> None:
    answer = dns.message.from_wire(wire.format_error(GOOD))
    assert (answer.id, answer.rcode()) == (int.from_bytes(GOOD[:2], "big"), dns.rcode.FORMERR)
    assert answer.flags & dns.flags.QR


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(["a" * 63] * 4)])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a DNS name"):
        wire.encode_name(name)


def test_only_the_answer_to_the_same_question_counts() -> None:
    query = wire.read_query(GOOD)
    answer = wire.reply(query, 0, limit=512)
    upper = answer.replace(b"web", b"WEB")
    assert wire.answers(answer, query.id, query.question)
    assert wire.answers(upper, query.id, query.question)
    assert not wire.answers(answer, query.id ^ 1, query.question)
    assert not wire.answers(answer.replace(b"web", b"wen"), query.id, query.question)
    assert not wire.answers(GOOD, query.id, query.question)
    assert not wire.answers(wire.format_error(GOOD), query.id, query.question)
    assert not wire.answers(answer[:11], query.id, query.question)
    assert wire.with_id(GOOD, 0x1234) == b"\x12\x34" + GOOD[2:]
