"""The table of published ports and the script made from it."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2
from miniproto.v1 import objects_pb2 as pb
from miniworker.ingress.rotation import Rotation
from miniworker.ingress.rules import ingress_rules
from miniworker.ingress.table import Port, PortKey, read_table, removed_backends

WEB = PortKey("tcp", 80)
ONE, TWO, THREE = (IPv4Address(f"10.0.0.{number}") for number in (5, 6, 7))


def port(key: PortKey, *backends: IPv4Address) -> Port:
    return Port(key, 8000, "web", backends)


def ports() -> st.SearchStrategy[list[Port]]:
    keys = st.builds(PortKey, st.sampled_from(["tcp", "udp"]), st.integers(1, 65535))
    backends = st.lists(st.sampled_from([ONE, TWO, THREE]), unique=True).map(tuple)
    made = st.builds(Port, keys, st.integers(1, 65535), st.just("web"), backends)
    return st.lists(made, max_size=5, unique_by=lambda item: item.key)


def test_connections_go_round_the_tasks() -> None:
    script = ingress_rules([port(WEB, ONE, TWO)])
    assert "tcp . 80 : goto tcp-80" in script
    assert "meta l4proto tcp dnat ip to numgen inc mod 2 map { 0 : 10.0.0.5, 1 : 10.0.0.6 } : 8000" in script


def test_one_task_needs_no_turn() -> None:
    assert "meta l4proto tcp dnat ip to 10.0.0.5 : 8000" in ingress_rules([port(WEB, ONE)])


def test_a_port_without_tasks_is_refused_and_not_led_anywhere() -> None:
    script = ingress_rules([port(WEB)])
    assert "elements = { tcp . 80 : goto refuse }" in script
    assert "dnat" not in script


@given(ports())
def test_the_order_of_the_table_does_not_matter(items: list[Port]) -> None:
    assert ingress_rules(items) == ingress_rules(reversed(items))


@pytest.mark.root
@pytest.mark.parametrize(
    "items",
    [
        [],
        [port(WEB)],
        [port(WEB, ONE)],
        [port(WEB, ONE, TWO, THREE), port(PortKey("udp", 53), ONE, TWO), port(PortKey("udp", 54))],
    ],
)
def test_nft_takes_every_script_twice(items: list[Port]) -> None:
    script = ingress_rules(items) * 2
    done = subprocess.run(
        ["unshare", "--net", "nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


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


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([published(), published()], "80/tcp twice"),
        ([published(published_port=0)], "published_port: must be 1 to 65535, got 0"),
        ([published(target_port=70000)], "target_port: must be 1 to 65535, got 70000"),
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


def test_nobody_to_turn_to() -> None:
    assert list(Rotation().order("10.77.0.99")) == []
