"""The table of published ports and the script made from it."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2
from miniproto.v1 import objects_pb2 as pb
from miniworker.ingress.rotation import MAX_REMEMBERED, Rotation
from miniworker.ingress.rules import NOTHING, ingress_rules, named, read_named
from miniworker.ingress.table import Port, PortKey, read_table, removed_backends
from support.ingress_packets import PASSED, REFUSED, Packet, Table

WEB = PortKey("tcp", 80)
ONE, TWO, THREE = (IPv4Address(f"10.0.0.{number}") for number in (5, 6, 7))


def port(key: PortKey, *backends: IPv4Address) -> Port:
    return Port(key, 8000, "web", backends)


def ports() -> st.SearchStrategy[list[Port]]:
    keys = st.builds(PortKey, st.sampled_from(["tcp", "udp"]), st.integers(1, 65535))
    backends = st.lists(st.sampled_from([ONE, TWO, THREE]), unique=True).map(tuple)
    addresses = st.sampled_from([None, IPv4Address("10.77.0.21"), IPv6Address("fd77::21")])
    made = st.builds(
        Port,
        keys,
        st.integers(1, 65535),
        st.just("web"),
        backends,
        host_ip=addresses,
        sticky=st.booleans(),
        proxy_protocol=st.booleans(),
    )
    return st.lists(made, max_size=5, unique_by=lambda item: item.key)


def table_of(*items: Port) -> Table:
    table = Table()
    table.load(ingress_rules(items))
    return table


def replace_table(table: Table, before: list[Port], after: list[Port]) -> None:
    table.load(ingress_rules(after, named(before)))


def test_connections_go_round_the_tasks() -> None:
    table = table_of(port(WEB, ONE, TWO, THREE))
    led = [table.send(Packet()) for _ in range(6)]
    assert led == [f"{task}:8000" for task in (ONE, TWO, THREE)] * 2


def test_only_what_is_published_is_led_anywhere() -> None:
    table = table_of(port(WEB, ONE))
    assert table.send(Packet()) == f"{ONE}:8000"
    for other in (
        Packet(port=81),
        Packet(protocol="udp"),
        Packet(to_this_node=False),
        Packet(source="fd77::99", destination="fd77::11"),
    ):
        assert table.send(other) == PASSED


def test_a_port_without_tasks_is_refused_and_not_led_anywhere() -> None:
    for key in (WEB, PortKey("udp", 53)):
        table = table_of(port(key))
        assert table.send(Packet(protocol=key.protocol, port=key.port)) == REFUSED
        assert table.send(Packet(key.protocol, key.port, "fd77::99", "fd77::11")) == REFUSED
        assert table.send(Packet(port=81)) == PASSED


@pytest.mark.parametrize("backends", [(), (ONE,), (ONE, TWO)])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_port_of_one_address_concerns_no_other(backends: tuple[IPv4Address, ...], sticky: bool) -> None:
    own = IPv4Address("10.77.0.21")
    table = table_of(Port(WEB, 8000, "web", backends, host_ip=own, sticky=sticky))
    here = table.send(Packet(destination=str(own)))
    assert here in [f"{task}:8000" for task in backends] if backends else here == REFUSED
    assert table.send(Packet()) == PASSED
    assert table.send(Packet(source="fd77::99", destination="fd77::11")) == PASSED


def test_a_port_of_an_ipv6_address_is_left_to_the_listener_until_it_has_no_tasks() -> None:
    own = IPv6Address("fd77::21")
    packet = Packet(source="fd77::99", destination=str(own))
    assert table_of(Port(WEB, 8000, "web", (ONE,), host_ip=own)).send(packet) == PASSED
    refusing = table_of(Port(WEB, 8000, "web", (), host_ip=own))
    assert refusing.send(packet) == REFUSED
    assert refusing.send(Packet()) == PASSED


def test_a_port_that_needs_a_header_is_left_to_the_listener() -> None:
    assert table_of(Port(WEB, 8000, "web", (ONE,), proxy_protocol=True)).send(Packet()) == PASSED


CLIENTS = [f"10.77.{high}.{low}" for high in range(4) for low in range(1, 200)]


def sticky(*backends: IPv4Address) -> Port:
    return Port(WEB, 8000, "web", backends, sticky=True)


def test_sticky_clients_are_spread_evenly() -> None:
    table = table_of(sticky(ONE, TWO, THREE))
    shares = Counter(table.send(Packet(source=client)) for client in CLIENTS)
    assert len(shares) == 3
    assert min(shares.values()) > len(CLIENTS) / 3 * 0.8


@given(st.lists(st.sets(st.sampled_from([ONE, TWO, THREE]), min_size=1), min_size=2, max_size=5))
def test_a_sticky_client_moves_only_when_its_task_goes(sets: list[set[IPv4Address]]) -> None:
    table, before, at = Table(), list[Port](), dict[str, str]()
    for tasks in sets:
        after = [sticky(*sorted(tasks))]
        replace_table(table, before, after)
        for client in CLIENTS[::40]:
            led = table.send(Packet(source=client))
            allowed = {f"{task}:8000" for task in tasks}
            assert led in allowed
            if at.get(client) in allowed:
                assert led == at[client]
            assert table.send(Packet(source=client)) == led
            at[client] = led
        before = after


def test_a_client_that_nobody_knows_goes_to_the_same_task_through_every_node() -> None:
    nodes = [table_of(sticky(ONE, TWO, THREE)) for _ in range(3)]
    for client in CLIENTS:
        assert len({table.send(Packet(source=client)) for table in nodes}) == 1


@given(ports(), ports())
def test_what_a_table_has_by_name_is_known_without_asking(before: list[Port], after: list[Port]) -> None:
    script = ingress_rules(after, named(before))
    found = re.findall(r"^  (chain|map|set) (\S+) \{", script, re.M)
    everything = {f"{kind} {name}" for kind, name in found}
    assert everything == named(after).chains | named(after).sets


@given(ports())
def test_the_order_of_the_table_does_not_matter(items: list[Port]) -> None:
    assert ingress_rules(items) == ingress_rules(reversed(items))


TABLES = [
    [],
    [port(WEB)],
    [port(WEB, ONE)],
    [sticky(ONE)],
    [sticky(ONE, TWO, THREE), port(PortKey("udp", 53), ONE, TWO), port(PortKey("udp", 54))],
    [Port(WEB, 8000, "web", (ONE, TWO), host_ip=IPv4Address("10.77.0.21"), sticky=True)],
    [Port(WEB, 8000, "web", (), host_ip=IPv4Address("10.77.0.21"))],
    [Port(WEB, 8000, "web", (), host_ip=IPv6Address("fd77::21"))],
    [Port(WEB, 8000, "web", (ONE,), proxy_protocol=True)],
]


@pytest.mark.root
def test_nft_takes_every_script_after_every_other() -> None:
    """And what it says is there is what we think is there."""
    lines = ["set -e"]
    before: list[Port] = []
    for after in [table for one in TABLES for other in TABLES for table in (one, other)]:
        known = named(before) if lines[1:] else NOTHING
        lines.append(f"nft -f - <<'END'\n{ingress_rules(after, known)}END")
        before = after
    lines.append("nft -j --terse list table inet mini_ingress")
    done = subprocess.run(
        ["unshare", "--net", "sh"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read_named(json.loads(done.stdout)["nftables"]) == named(before)


def published(**changes: object) -> dispatch.PublishedPort:
    values: dict[str, object] = {
        "protocol": pb.PORT_PROTOCOL_TCP,
        "published_port": 80,
        "target_port": 8000,
        "backends": [dispatch.Backend(address=text) for text in ("10.0.0.6", "10.0.0.5", "10.0.0.6")],
    }
    return dispatch.PublishedPort(**{**values, **changes})  # type: ignore[arg-type]


def test_a_message_becomes_a_table() -> None:
    message = ingress_pb2.IngressTable(ports=[published(service_name="web")])
    assert read_table(message) == {WEB: port(WEB, ONE, TWO)}


BACKENDS = [
    dispatch.Backend(address=str(ONE), node_id="core-01"),
    dispatch.Backend(address=str(TWO), node_id="core-02"),
]


@pytest.mark.parametrize(
    ("locality", "node", "expected"),
    [
        (pb.PORT_LOCALITY_ANY, "core-01", (ONE, TWO)),
        (pb.PORT_LOCALITY_PREFER, "core-01", (ONE,)),
        (pb.PORT_LOCALITY_PREFER, "core-03", (ONE, TWO)),
        (pb.PORT_LOCALITY_ONLY, "core-02", (TWO,)),
        (pb.PORT_LOCALITY_ONLY, "core-03", ()),
    ],
)
def test_locality_says_whom_a_node_leads_to(
    locality: pb.PortLocality.ValueType, node: str, expected: tuple[IPv4Address, ...]
) -> None:
    message = ingress_pb2.IngressTable(ports=[published(locality=locality, backends=BACKENDS)], node_id=node)
    assert read_table(message)[WEB].backends == expected


def test_options_are_read() -> None:
    message = ingress_pb2.IngressTable(ports=[published(host_ip="fd77::1", sticky=True, proxy_protocol=2)])
    read = read_table(message)[WEB]
    assert (read.host_ip, read.sticky, read.proxy_protocol) == (IPv6Address("fd77::1"), True, True)
    everywhere = ingress_pb2.IngressTable(ports=[published(host_ip="0.0.0.0")])
    assert read_table(everywhere)[WEB].host_ip is None


def test_a_port_that_moves_to_another_address_leaves_its_tasks_flows_behind() -> None:
    before = {WEB: port(WEB, ONE)}
    after = {WEB: Port(WEB, 8000, "web", (ONE,), host_ip=IPv4Address("10.77.0.21"))}
    assert removed_backends(before, after) == {WEB: (ONE,)}


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([published(), published()], "80/tcp twice"),
        ([published(published_port=0)], "published_port: must be 1 to 65535, got 0"),
        ([published(target_port=70000)], "target_port: must be 1 to 65535, got 70000"),
        ([published(proxy_protocol=1)], "proxy_protocol: must be 2 or 0, got 1"),
        (
            [published(proxy_protocol=2, protocol=pb.PORT_PROTOCOL_UDP)],
            "proxy_protocol: must be 0 for udp, got 2",
        ),
        ([published(host_ip="web")], "host_ip: must be an IPv4 or IPv6 address, got web"),
        ([published(backends=[dispatch.Backend(address="::1")])], "must be an IPv4 address"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(items: list[dispatch.PublishedPort], text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        read_table(ingress_pb2.IngressTable(ports=items))


def test_removed_backends_include_those_of_removed_ports() -> None:
    dns = PortKey("udp", 53)
    before = {WEB: port(WEB, ONE, TWO), dns: port(dns, THREE)}
    assert removed_backends(before, {WEB: port(WEB, TWO)}) == {WEB: (ONE,), dns: (THREE,)}
    assert removed_backends(before, before) == {}


@given(st.lists(st.sampled_from([ONE, TWO, THREE]), unique=True, min_size=1).map(tuple), st.integers(1, 10))
def test_turns_are_fair_and_every_task_is_tried(backends: tuple[IPv4Address, ...], rounds: int) -> None:
    rotation = Rotation(backends, 80)
    orders = [list(rotation.order("10.77.0.99")) for _ in range(rounds * len(backends))]
    assert all(sorted(order) == sorted(backends) for order in orders)
    firsts = [order[0] for order in orders]
    assert {firsts.count(item) for item in backends} == {rounds}


@pytest.mark.parametrize("sticky", [False, True])
def test_a_task_that_is_removed_meanwhile_is_not_tried(sticky: bool) -> None:
    rotation = Rotation((ONE, TWO, THREE), 80, sticky=sticky)
    order = rotation.order("10.77.0.99")
    first = next(order)
    left = next(item for item in (ONE, TWO, THREE) if item != first)
    rotation.update((left,), 80, sticky=sticky)
    assert list(order) == [left]


def test_nobody_to_turn_to() -> None:
    assert list(Rotation().order("10.77.0.99")) == []


def test_a_sticky_client_is_remembered_and_the_others_are_tried_after_it() -> None:
    rotation = Rotation((ONE, TWO), 80, sticky=True)
    first, second = rotation.order("10.77.0.99")
    rotation.took("10.77.0.99", second)  # the first has refused
    assert list(rotation.order("10.77.0.99")) == [second, first]
    rotation.update((ONE, TWO, THREE), 80, sticky=True)
    assert next(rotation.order("10.77.0.99")) == second
    rotation.update((first, THREE), 80, sticky=True)
    assert second not in list(rotation.order("10.77.0.99"))


def test_no_more_sticky_clients_are_remembered_than_fit() -> None:
    rotation = Rotation((ONE, TWO), 80, sticky=True)
    other = {ONE: TWO, TWO: ONE}
    expected = {}
    for number in range(MAX_REMEMBERED + 1):
        client = str(IPv4Address(number))
        expected[client] = other[next(rotation.order(client))]
        rotation.took(client, expected[client])
    oldest, *rest = expected
    assert next(rotation.order(oldest)) != expected[oldest]
    assert next(rotation.order(rest[0])) == expected[rest[0]]
