"""Which port of the node a task gets, and who is told no."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.api import HostPort, OverlayNetwork, Sandbox
from miniworker.network.errors import PortInUseError
from miniworker.network.gateway import host_rules, read_forwards
from miniworker.network.host_ports import choose_ports, forwards_of, ports_of
from miniworker.network.ports import CHOSEN_PORTS

ADDRESS = IPv4Address("172.18.0.2")


def choose(
    *wanted: HostPort, held: dict[tuple[str, int], str] | None = None, busy: frozenset[int] = frozenset()
) -> tuple[HostPort, ...]:
    return choose_ports(
        wanted,
        held or {},
        is_free=lambda _, number: number not in busy,
        holder=lambda _, port: f"nginx (pid {port})",
    )


def test_a_number_that_is_asked_for_is_given() -> None:
    assert choose(HostPort("tcp", 80, 8080)) == (HostPort("tcp", 80, 8080),)


def test_a_number_is_chosen_past_those_in_use() -> None:
    first = CHOSEN_PORTS.start
    chosen = choose(
        HostPort("tcp", 0, 80),
        HostPort("tcp", 0, 81),
        held={("tcp", first): "task a"},
        busy=frozenset({first + 1}),
    )
    assert [port.published_port for port in chosen] == [first + 2, first + 3]


def test_the_same_number_serves_tcp_and_udp() -> None:
    assert len(choose(HostPort("tcp", 53, 53), HostPort("udp", 53, 53))) == 2


@pytest.mark.parametrize(
    ("held", "busy", "who"),
    [
        ({("tcp", 80): "task abc"}, frozenset(), "task abc"),
        ({}, frozenset({80}), r"nginx \(pid 80\)"),
    ],
)
def test_the_holder_of_a_taken_port_is_named(
    held: dict[tuple[str, int], str], busy: frozenset[int], who: str
) -> None:
    with pytest.raises(PortInUseError, match=f"port 80/tcp is in use on this node by {who}"):
        choose(HostPort("tcp", 80, 80), held=held, busy=busy)


def test_a_task_cannot_have_a_port_twice() -> None:
    with pytest.raises(PortInUseError, match="another port of the same task"):
        choose(HostPort("tcp", 80, 80), HostPort("tcp", 80, 81))


def test_no_port_left_is_said() -> None:
    with pytest.raises(PortInUseError, match="no free tcp port between 32768 and 60999"):
        choose(HostPort("tcp", 0, 80), busy=frozenset(CHOSEN_PORTS))


@given(
    st.lists(
        st.builds(
            HostPort,
            st.sampled_from(["tcp", "udp"]),
            st.just(0) | st.integers(80, 400),
            st.integers(1, 5),
            st.sampled_from([None, IPv4Address("10.77.0.21")]),
        ),
        max_size=6,
        unique_by=lambda port: (port.protocol, port.published_port or object()),
    )
)
def test_what_a_task_has_is_read_back_from_what_the_kernel_holds(wanted: list[HostPort]) -> None:
    chosen = choose(*wanted)
    found = ports_of(Sandbox("t", (), tuple(wanted)), forwards_of(chosen, ADDRESS), ADDRESS)
    assert found is not None
    assert sorted(map(repr, found)) == sorted(map(repr, chosen))
    for port, asked in zip(found, wanted, strict=True):
        assert (port.target_port, port.host_ip) == (asked.target_port, asked.host_ip)
        assert asked.published_port in (0, port.published_port)


def test_other_ports_than_a_task_has_are_not_the_same() -> None:
    has = forwards_of([HostPort("tcp", 8080, 80)], ADDRESS)
    elsewhere = HostPort("tcp", 8080, 80, IPv4Address("10.77.0.21"))
    more = HostPort("tcp", 8080, 80), HostPort("udp", 0, 80)
    for wanted in ((), (HostPort("tcp", 8081, 80),), (elsewhere,), more):
        assert ports_of(Sandbox("t", (), wanted), has, ADDRESS) is None


def test_the_rules_name_every_port_bridge_and_subnet() -> None:
    def network(name: str, number: int, *, internal: bool = False) -> OverlayNetwork:
        subnet = IPv4Network(f"10.0.{number}.0/24")
        return OverlayNetwork(
            name, name, subnet, subnet[1], 4096, 1450, number == 0, None if number else subnet[2], internal
        )

    script = host_rules(
        IPv4Network("172.18.0.0/16"),
        [network("b", 1), network("a", 0), network("c", 2, internal=True)],
        forwards_of([HostPort("tcp", 8080, 80), HostPort("udp", 53, 53, IPv4Address("10.77.0.21"))], ADDRESS),
    )
    assert "elements = { tcp . 8080 : 172.18.0.2 . 80 }" in script
    assert "elements = { 10.77.0.21 . udp . 53 : 172.18.0.2 . 53 }" in script
    assert 'iifname "mbr-a" oifname "mbr-a" accept' in script
    assert "ip saddr { 10.0.0.0/24, 10.0.1.0/24, 172.18.0.0/16 } masquerade" in script
    assert 'elements = { "mbr-b" . 10.0.1.1, "mbr-c" . 10.0.2.1 }' in script
    assert "elements = { 172.18.0.1, 10.0.0.2, 10.0.1.1, 10.0.2.1 }" in script
    assert "elements = { 02:42:0a:00:01:01, 02:42:0a:00:02:01 }" in script


def test_frames_of_encrypted_networks_pass_only_by_the_interface_that_encrypts() -> None:
    subnet = IPv4Network("10.0.1.0/24")
    plain = OverlayNetwork("a", "a", subnet, subnet[1], 4097, 1450, ingress=False)
    sealed = replace(plain, id="b", vni=4098, encrypted=True)
    rules = host_rules(IPv4Network("172.18.0.0/16"), [plain, sealed], (), vxlan_port=4790)
    frames = "udp dport 4790 @th,96,24 { 4098 }"
    assert f'    oifname != "mini-wg" {frames} drop\n' in rules
    assert f'    iifname "mini-wg" {frames} accept\n    iifname "mini-wg" drop\n    {frames} drop\n' in rules
    assert "mini-wg" not in host_rules(IPv4Network("172.18.0.0/16"), [plain], ())


def test_ports_are_read_from_the_listing_of_nft() -> None:
    listing: list[dict[str, Any]] = [
        {"table": {"name": "mini"}},
        {
            "map": {
                "name": "host_ports",
                "elem": [[{"concat": ["tcp", 8080]}, {"concat": ["172.18.0.2", 80]}]],
            }
        },
        {
            "map": {
                "name": "host_ports_at",
                "elem": [[{"concat": ["10.77.0.21", "tcp", 8081]}, {"concat": ["172.18.0.2", 81]}]],
            }
        },
    ]
    at_one = HostPort("tcp", 8081, 81, IPv4Address("10.77.0.21"))
    assert read_forwards(listing) == forwards_of([HostPort("tcp", 8080, 80), at_one], ADDRESS)
    assert read_forwards([{"map": {"name": "host_ports"}}]) == frozenset()
