"""What each packet is answered with."""

from __future__ import annotations

from collections import Counter
from random import Random

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from miniproto.v1 import ingress_pb2 as pb
from miniworker.ingress.dns.reading import Reading, read_table
from miniworker.ingress.dns.responder import Question, Responder
from miniworker.ingress.dns.zone import Zone
from support.dns import addresses, client, network, service, table

TASKS = tuple(f"10.0.1.{last}" for last in (5, 6, 7))
MANY = tuple(f"10.0.1.{last}" for last in range(100, 250))
HERE, INSIDE, STRANGER = "10.0.1.90", "10.0.2.90", "10.0.1.91"


def zone_of(message: pb.DnsTable) -> Zone:
    return read_table(message, Reading()).zone


RESPONDER = Responder(random=Random(1))
RESPONDER.follow(
    zone_of(
        table(
            (network("backend"), network("inside", third=2, internal=True)),
            (
                service("backend", "web", virtual="10.0.1.2", tasks=TASKS),
                service("backend", "many", tasks=MANY),
                service("inside", "db", virtual="10.0.2.2"),
            ),
            (client(HERE, "backend"), client(INSIDE, "inside")),
        )
    )
)


def ask(query: dns.message.Message, source: str = HERE, *, stream: bool = False) -> dns.message.Message:
    data = RESPONDER.respond(query.to_wire(), source, stream=stream)
    assert isinstance(data, bytes)
    answer = dns.message.from_wire(data)
    assert query.is_response(answer)
    return answer


def question(name: str, kind: str = "A") -> dns.message.Message:
    return dns.message.make_query(name, kind)


def test_names_are_found_whatever_the_case_and_answered_in_the_case_asked() -> None:
    answer = ask(question("wEb.BACKend"))
    assert answer.answer[0].to_text() == "wEb.BACKend. 5 IN A 10.0.1.2"
    assert answer.flags & dns.flags.AA


@pytest.mark.parametrize("kind", ["AAAA", "MX", "SRV", "TXT", "PTR", "HTTPS"])
def test_a_known_name_has_no_records_of_other_types(kind: str) -> None:
    answer = ask(question("web", kind))
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


def test_any_type_means_the_one_there_is() -> None:
    assert addresses(ask(question("web", "ANY"))) == ["10.0.1.2"]
    assert len(ask(question("5.1.0.10.in-addr.arpa", "ANY")).answer) == 1


def test_an_address_of_ours_without_a_name_is_asked_of_nobody() -> None:
    assert ask(question("77.1.0.10.in-addr.arpa", "PTR")).rcode() == dns.rcode.NXDOMAIN


def test_tasks_take_turns_evenly() -> None:
    firsts = Counter(addresses(ask(question("tasks.web")))[0] for _ in range(30))
    assert firsts == dict.fromkeys(TASKS, 10)
    assert sorted(addresses(ask(question("tasks.web")))) == sorted(TASKS)


def test_the_first_of_a_new_table_is_not_always_the_same() -> None:
    zone = zone_of(table((network("n"),), (service("n", "web", tasks=TASKS),), (client(HERE, "n"),)))
    responder, firsts = Responder(random=Random(1)), set()
    for _ in range(50):
        responder.follow(zone)
        data = responder.respond(question("web").to_wire(), HERE)
        assert isinstance(data, bytes)
        firsts.add(addresses(dns.message.from_wire(data))[0])
    assert firsts == set(TASKS)


def test_too_many_for_udp_are_cut_and_whole_over_tcp() -> None:
    cut = ask(question("many"))
    assert cut.flags & dns.flags.TC
    assert len(cut.to_wire()) <= 512
    assert 20 < len(addresses(cut)) < len(MANY)
    larger = ask(dns.message.make_query("many", "A", use_edns=True, payload=4096))
    assert len(addresses(cut)) < len(addresses(larger)) < len(MANY)
    whole = ask(question("many"), stream=True)
    assert not whole.flags & dns.flags.TC
    assert sorted(addresses(whole)) == sorted(MANY)


def test_a_stranger_is_refused_and_told_nothing() -> None:
    for name in ("web", "example.com", "10.in-addr.arpa"):
        answer = ask(question(name), STRANGER)
        assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])


def test_other_names_are_forwarded_as_they_came() -> None:
    for name in ("example.com", "nosuch", "db"):
        packet = question(name).to_wire()
        outcome = RESPONDER.respond(packet, HERE)
        assert isinstance(outcome, Question)
        assert (outcome.packet, outcome.client.task_id, outcome.query.name) == (packet, "asks", name)


def test_nothing_leaves_an_internal_network() -> None:
    assert addresses(ask(question("db"), INSIDE)) == ["10.0.2.2"]
    assert ask(question("example.com"), INSIDE).rcode() == dns.rcode.SERVFAIL
    assert ask(question("web"), INSIDE).rcode() == dns.rcode.SERVFAIL


def test_what_is_not_a_plain_question_is_refused_for_names_that_are_known_too() -> None:
    assert addresses(ask(question("web"))) == ["10.0.1.2"]
    update = question("web")
    update.set_opcode(dns.opcode.NOTIFY)
    assert ask(update).rcode() == dns.rcode.NOTIMP
    chaos = dns.message.make_query("web", "A", rdclass=dns.rdataclass.CH)
    assert ask(chaos).rcode() == dns.rcode.REFUSED
    version = dns.message.make_query("web", "A", use_edns=1)
    assert ask(version).rcode() == dns.rcode.BADVERS


def test_an_answer_is_never_answered() -> None:
    query = question("web")
    assert RESPONDER.respond(dns.message.make_response(query).to_wire(), HERE) is None
    assert RESPONDER.respond(b"\0" * 11, HERE) is None


def test_a_name_is_gone_with_the_next_table() -> None:
    responder = Responder(random=Random(1))
    before = zone_of(table((network("n"),), (service("n", "web", tasks=TASKS),), (client(HERE, "n"),)))
    responder.follow(before)
    packet = question("web").to_wire()
    assert isinstance(responder.respond(packet, HERE), bytes)
    after = zone_of(table((network("n"),), (service("n", "web", tasks=TASKS[1:]),), (client(HERE, "n"),)))
    responder.follow(after)
    data = responder.respond(packet, HERE)
    assert isinstance(data, bytes)
    assert sorted(addresses(dns.message.from_wire(data))) == sorted(TASKS[1:])
    responder.follow(zone_of(table((network("n"),), (), (client(HERE, "n"),))))
    assert isinstance(responder.respond(packet, HERE), Question)


packets = st.sampled_from(
    [
        dns.message.make_query(name, kind, use_edns=edns).to_wire()
        for name in ("web", "tasks.web", "many", "5.1.0.10.in-addr.arpa", "example.com")
        for kind in ("A", "PTR")
        for edns in (False, True)
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(packets))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=3))


@given(st.one_of(st.binary(max_size=600), mutated()), st.booleans())
@example(b"\0" * 12, False)
def test_no_bytes_are_answered_with_anything_but_an_answer(data: bytes, stream: bool) -> None:
    outcome = RESPONDER.respond(data, HERE, stream=stream)
    if isinstance(outcome, bytes):
        assert len(outcome) <= (65535 if stream else 1232)
        assert outcome[:2] == data[:2]
        answer = dns.message.from_wire(outcome)
        assert answer.flags & dns.flags.QR
