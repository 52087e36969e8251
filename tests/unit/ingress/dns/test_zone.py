"""Who may ask for which names, and what they mean."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2 as pb
from miniworker.ingress.dns.reading import Reading, read_table
from miniworker.ingress.dns.zone import ABSENT, ELSEWHERE, Finding, Found, Pointer, find
from support.dns import client, network, service, table, task_id

BACKEND = network("net-b", name="Backend", third=1)
FRONTEND = network("net-f", name="frontend", third=2)
SECRET = network("net-s", name="secret", third=3)
WEB = service("net-b", "Web", virtual="10.0.1.2", tasks=("10.0.1.5", "10.0.1.6"), aliases=("www",))
RR = service("net-b", "rr", tasks=("10.0.1.7", "10.0.1.8"), first_slot=7)
OTHER_WEB = service("net-f", "web", virtual="10.0.2.2", tasks=("10.0.2.5",))
VAULT = service("net-s", "vault", virtual="10.0.3.2", tasks=("10.0.3.5",), aliases=("safe",))


def ask(
    name: str,
    *networks: str,
    services: tuple[dispatch.NetworkService, ...] = (WEB, RR, OTHER_WEB, VAULT),
) -> Finding:
    message = table((BACKEND, FRONTEND, SECRET), services, (client("10.0.1.9", *networks),))
    return find(read_table(message, Reading()).zone.clients["10.0.1.9"], name)


def found(*addresses: str, ttl: int = 0) -> Found:
    return Found(tuple(map(IPv4Address, addresses)), ttl)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", found("10.0.1.2", ttl=5)),
        ("www", found("10.0.1.2", ttl=5)),
        ("tasks.web", found("10.0.1.5", "10.0.1.6")),
        ("tasks.www", found("10.0.1.5", "10.0.1.6")),
        ("rr", found("10.0.1.7", "10.0.1.8")),
        ("tasks.rr", found("10.0.1.7", "10.0.1.8")),
        ("web.1", found("10.0.1.5")),
        ("2.web", found("10.0.1.6")),
        ("web.3", ELSEWHERE),
        (f"web.1.{task_id(1)}", found("10.0.1.5")),
        (task_id(1)[:12], found("10.0.1.5")),
        (task_id(1), ELSEWHERE),
        ("tasks.web.1", ELSEWHERE),
        ("tasks", ELSEWHERE),
        ("example.com", ELSEWHERE),
        ("", ELSEWHERE),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".backend"])
def test_names_of_a_network(name: str, suffix: str, expected: Finding) -> None:
    assert ask(f"{name}{suffix}", "net-b") == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.1.5", Pointer(f"Web.1.{task_id(1)}.backend", 0)),
        ("10.0.1.2", Pointer("Web.backend", 5)),
        ("10.0.1.99", ABSENT),
        ("10.0.2.5", ELSEWHERE),
        ("8.8.8.8", ELSEWHERE),
        ("1.5", ELSEWHERE),
        ("web", ELSEWHERE),
    ],
)
def test_addresses_have_names(address: str, expected: Finding) -> None:
    name = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert ask(name, "net-b") == expected


def test_networks_are_searched_in_their_order() -> None:
    assert ask("web", "net-b", "net-f") == found("10.0.1.2", ttl=5)
    assert ask("web", "net-f", "net-b") == found("10.0.2.2", ttl=5)
    assert ask("web.backend", "net-f", "net-b") == found("10.0.1.2", ttl=5)
    assert ask("rr", "net-f", "net-b") == found("10.0.1.7", "10.0.1.8")


def test_a_name_itself_comes_before_one_with_a_network_behind_it() -> None:
    dotted = service("net-f", "web.backend", virtual="10.0.2.3")
    assert ask("web.backend", "net-b", "net-f", services=(WEB, dotted)) == found("10.0.2.3", ttl=5)


def test_a_name_that_several_have_means_all() -> None:
    also = service("net-b", "api", virtual="10.0.1.3", tasks=("10.0.1.20",), aliases=("www",))
    assert ask("www", "net-b", services=(WEB, also)) == found("10.0.1.2", "10.0.1.3", ttl=5)
    mixed = service("net-b", "old", tasks=("10.0.1.30",), aliases=("www",))
    assert ask("www", "net-b", services=(WEB, mixed)) == found("10.0.1.2", "10.0.1.30")
    tasks = ask("tasks.www", "net-b", services=(WEB, also))
    assert tasks == found("10.0.1.5", "10.0.1.6", "10.0.1.20")


def test_while_a_slot_has_two_tasks_its_name_means_both() -> None:
    doubled = dispatch.NetworkService()
    doubled.CopyFrom(WEB)
    doubled.backends.append(
        dispatch.ServiceBackend(task_id="new", address="10.0.1.40", slot=1, container_name="Web.1.new")
    )
    assert ask("web.1", "net-b", services=(doubled,)) == found("10.0.1.5", "10.0.1.40")


def test_a_global_services_tasks_are_called_by_their_node() -> None:
    one = dispatch.ServiceBackend(task_id="t", address="10.0.1.5", container_name="agent.node7.t")
    agent = dispatch.NetworkService(network_id="net-b", name="agent", backends=[one])
    for name in ("agent.node7", "node7.agent", "agent.node7.t", "t"):
        assert ask(name, "net-b", services=(agent,)) == found("10.0.1.5")


def test_a_container_of_no_service_has_its_own_name() -> None:
    one = dispatch.ServiceBackend(task_id="t", address="10.0.1.5", container_name="box")
    box = dispatch.NetworkService(network_id="net-b", name="box", backends=[one])
    assert ask("box", "net-b", services=(box,)) == found("10.0.1.5")
    assert ask("5.1.0.10.in-addr.arpa", "net-b", services=(box,)) == Pointer("box.backend", 0)


def test_a_service_without_tasks_keeps_its_names() -> None:
    empty = service("net-b", "web", virtual="10.0.1.2")
    assert ask("web", "net-b", services=(empty,)) == found("10.0.1.2", ttl=5)
    assert ask("tasks.web", "net-b", services=(empty,)) == found()
    assert ask("rr", "net-b", services=(service("net-b", "rr"),)) == found()


def test_what_dns_cannot_carry_is_no_name_of_an_address() -> None:
    for name in ("", "a" * 64, "a..b"):
        one = dispatch.ServiceBackend(task_id="t", address="10.0.1.5", container_name=name)
        odd = dispatch.NetworkService(network_id="net-b", name="odd", backends=[one])
        assert ask("5.1.0.10.in-addr.arpa", "net-b", services=(odd,)) is ABSENT


labels = st.sampled_from(["vault", "safe", "tasks", "secret", "1", task_id(1), task_id(1)[:12], "backend"])


@given(st.lists(labels, min_size=1, max_size=5).map(".".join))
def test_nothing_is_learned_of_a_network_that_one_is_not_on(name: str) -> None:
    others = (WEB, OTHER_WEB, RR)
    assert ask(name, "net-b", "net-f") == ask(name, "net-b", "net-f", services=others)
    for address in ("2.3.0.10", "5.3.0.10"):
        assert ask(f"{address}.in-addr.arpa", "net-b", "net-f") is ELSEWHERE


def test_a_client_on_internal_networks_only_may_not_ask_elsewhere() -> None:
    networks = (network("in", internal=True), network("out", third=2))
    clients = (client("10.0.1.5", "in"), client("10.0.1.6", "in", "out"), client("10.0.1.7", "out"))
    zone = read_table(table(networks, (), clients), Reading()).zone
    assert [zone.clients[f"10.0.1.{last}"].forwards for last in (5, 6, 7)] == [False, True, True]


def test_what_has_not_changed_is_not_read_again() -> None:
    first = read_table(table((BACKEND, FRONTEND), (WEB, OTHER_WEB)), Reading())
    again = table((BACKEND, FRONTEND), (WEB, RR, OTHER_WEB))
    second = read_table(pb.DnsTable.FromString(again.SerializeToString()), first)
    assert second.zone.networks["net-f"] is first.zone.networks["net-f"]
    assert second.services["net-b", "id-Web", "Web"] is first.services["net-b", "id-Web", "Web"]
    assert second.zone == read_table(again, Reading()).zone
    renamed = network("net-f", name="other", third=2)
    assert read_table(table((renamed,), (OTHER_WEB,)), second).zone.networks["net-f"].name == "other"


tables = st.lists(
    st.builds(
        lambda name, net, tasks, aliases: service(
            net, name, virtual="10.0.1.2" if len(tasks) % 2 else "", tasks=tasks, aliases=aliases
        ),
        st.sampled_from(["web", "api"]),
        st.sampled_from(["net-b", "net-f"]),
        st.lists(st.sampled_from(["10.0.1.5", "10.0.1.6", "10.0.2.7"]), max_size=3, unique=True),
        st.lists(st.sampled_from(["www", "web"]), max_size=2),
    ),
    max_size=4,
    unique_by=lambda item: (item.network_id, item.service_id),
).map(lambda services: table((BACKEND, FRONTEND), services, (client("10.0.1.9", "net-f"),)))


@given(st.lists(tables, max_size=4))
def test_a_story_of_tables_ends_where_its_last_one_alone_would(story: list[pb.DnsTable]) -> None:
    reading = Reading()
    for message in story:
        reading = read_table(message, reading)
        assert reading.zone == read_table(message, Reading()).zone


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (table((BACKEND,), (OTHER_WEB,)), r"dns.services.network_id: .* got 'net-f'"),
        (table((BACKEND,), (), (client("10.0.1.9", "nowhere"),)), r"dns.clients.network_ids: .* 'nowhere'"),
        (
            table((BACKEND,), (service("net-b", "w", virtual="10.0.1"),)),
            r"dns.services: service w: .*'10.0.1'",
        ),
        (table((network("n", gateway="x"),)), r"dns.networks: network n: .*'x'"),
        (pb.DnsTable(networks=[dispatch.AssignedNetwork(id="n")]), r"dns.networks: network : "),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(message: pb.DnsTable, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        read_table(message, Reading())
