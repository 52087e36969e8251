"""Packets through rules as nft lists them; tests/integration/network/test_trace.py has those of the kernel."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from miniworker.network.api import Packet
from miniworker.network.packet_walk import DROPPED, LED, PASSED, REFUSED, UNKNOWN, Rules

PACKET = Packet(IPv4Address("10.77.0.99"), IPv4Address("10.77.0.11"), "tcp", 80)
LED_ON = {"dnat": {"family": "ip", "addr": "10.0.0.5", "port": 8000}}
L4PROTO = {"meta": {"key": "l4proto"}}
DPORT = {"payload": {"protocol": "th", "field": "dport"}}


def rule(*statements: dict[str, Any], chain: str = "c") -> dict[str, Any]:
    return {"rule": {"chain": chain, "expr": list(statements)}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


@pytest.mark.parametrize(
    ("statements", "verdict"),
    [
        ([LED_ON], LED),
        ([{"counter": None}, {"drop": None}], DROPPED),
        ([{"reject": {}}], REFUSED),
        ([{"accept": None}], PASSED),
        ([match(L4PROTO, "udp"), LED_ON], PASSED),
        ([match(L4PROTO, "udp", "!="), LED_ON], LED),
        ([match(L4PROTO, {"set": ["tcp", "udp"]}), LED_ON], LED),
        ([match({"ct": {"key": "state"}}, ["established", "related"], "in"), {"drop": None}], PASSED),
        ([match({"payload": {"protocol": "ip6", "field": "daddr"}}, "::1"), LED_ON], PASSED),
        ([match({"payload": {"protocol": "udp", "field": "dport"}}, 80), LED_ON], PASSED),
        ([match({"meta": {"key": "mark"}}, 1), {"drop": None}], UNKNOWN),
        ([{"queue": {"num": 1}}], UNKNOWN),
        ([{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@m"}}], UNKNOWN),
        ([{"vmap": {"key": L4PROTO, "data": {"set": [["tcp", {"drop": None}]]}}}], UNKNOWN),
        ([{"goto": {"target": "nowhere"}}, {"drop": None}], PASSED),
    ],
)
def test_a_rule_decides_or_does_not(statements: list[dict[str, Any]], verdict: str) -> None:
    walk = Rules([rule(*statements)]).walk("c", PACKET)
    assert walk.verdict == verdict
    assert bool(walk.choice) == (verdict == UNKNOWN)


def test_the_first_rule_that_decides_counts() -> None:
    rules = Rules([rule(match(DPORT, 81), {"drop": None}), rule(LED_ON), rule({"drop": None})])
    walk = rules.walk("c", PACKET)
    assert (walk.verdict, walk.targets, walk.path) == (LED, ((IPv4Address("10.0.0.5"), 8000),), ("chain c",))


def test_one_of_several_is_taken_in_turn() -> None:
    data = {"set": [[0, "10.0.0.5"], [1, "10.0.0.6"]]}
    choice = {"map": {"key": {"numgen": {"mode": "inc", "mod": 2}}, "data": data}}
    walk = Rules([rule({"dnat": {"addr": choice, "port": 80}})]).walk("c", PACKET)
    assert [str(address) for address, _ in walk.targets] == ["10.0.0.5", "10.0.0.6"]
    assert walk.choice == "in turn"


def test_a_map_of_ports_names_the_element() -> None:
    key = {"concat": [L4PROTO, DPORT]}
    elements = [[{"concat": ["tcp", 80]}, {"concat": ["172.18.0.2", 8080]}]]
    rules = Rules(
        [
            {"map": {"name": "host_ports", "elem": elements}},
            rule({"dnat": {"family": "ip", "addr": {"map": {"key": key, "data": "@host_ports"}}}}),
        ]
    )
    walk = rules.walk("c", PACKET)
    assert walk.targets == ((IPv4Address("172.18.0.2"), 8080),)
    assert walk.path == ("map host_ports: tcp . 80 -> 172.18.0.2 . 8080",)
    other = Packet(PACKET.client, PACKET.destination, "udp", 80)
    assert rules.walk("c", other).verdict == PASSED
