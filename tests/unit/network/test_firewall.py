"""What other firewalls on the node do to forwarded packets."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from miniworker.network.firewall import (
    BaseChain,
    base_chains,
    docker_removal,
    docker_script,
    drops_ours,
    translates_for_others,
)
from miniworker.network.firewall_watch import changed_tables

Expression = dict[str, Any]

RETURN: Expression = {"return": None}
ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
COUNTER: Expression = {"counter": {"packets": 1, "bytes": 2}}
OURS = [(key, name) for key in ("iifname", "oifname") for name in ("mbr-*", "mini_gwbridge")]


def match(key: str, value: Any) -> Expression:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}}


def rule(chain: str, handle: int, *expressions: Expression) -> dict[str, Any]:
    return {"rule": {"chain": chain, "handle": handle, "expr": list(expressions)}}


def ours(chain: str, first: int = 10) -> list[dict[str, Any]]:
    return [
        rule(chain, first + place, match(key, name), COUNTER, ACCEPT)
        for place, (key, name) in enumerate(OURS)
    ]


def forward(policy: str = "drop") -> BaseChain:
    return BaseChain("ip", "filter", "FORWARD", "filter", "forward", policy)


def test_our_rules_come_before_dockers_return_and_after_the_administrators() -> None:
    table = [
        rule("DOCKER-USER", 4, match("iifname", "eth9"), DROP),
        rule("DOCKER-USER", 5, COUNTER, RETURN),
    ]
    assert docker_script(table).splitlines() == [
        f'insert rule ip filter DOCKER-USER handle 5 {key} "{name}" counter accept'
        for key, name in sorted(OURS)
    ]
    assert docker_removal(table) == ""


def test_nothing_is_done_when_they_are_there() -> None:
    table = [*ours("DOCKER-USER"), rule("DOCKER-USER", 5, RETURN)]
    assert docker_script(table) == ""
    assert docker_removal(table).splitlines() == [
        f"delete rule ip filter DOCKER-USER handle {handle}" for handle in range(10, 14)
    ]


def test_rules_behind_a_return_that_came_later_are_moved() -> None:
    script = docker_script([rule("DOCKER-USER", 5, RETURN), *ours("DOCKER-USER")])
    assert script.count("delete rule") == script.count("insert rule ip filter DOCKER-USER handle 5") == 4


def test_an_empty_chain_gets_them_too() -> None:
    assert docker_script([]).count("add rule ip filter DOCKER-USER") == 4


@pytest.mark.parametrize(
    ("policy", "table", "drops"),
    [
        ("accept", [], False),
        ("drop", [], True),
        ("accept", [rule("FORWARD", 1, {"reject": {"type": "icmp"}})], True),
        ("drop", ours("FORWARD"), False),
        ("drop", ours("FORWARD")[:3], True),
        ("drop", [rule("FORWARD", 1, DROP), *ours("FORWARD")], True),
        ("drop", [rule("FORWARD", 1, ACCEPT)], False),
        ("drop", [rule("FORWARD", 1, {"xt": None}, ACCEPT)], True),
        ("drop", [rule("FORWARD", 1, {"jump": {"target": "user"}}), *ours("user")], False),
        (
            "drop",
            [rule("FORWARD", 1, match("iifname", "eth9"), {"jump": {"target": "user"}}), *ours("user")],
            True,
        ),
        (
            "drop",
            [rule("FORWARD", 1, {"jump": {"target": "user"}}), rule("user", 2, RETURN), *ours("user")],
            True,
        ),
        ("drop", [rule("FORWARD", 1, {"jump": {"target": "FORWARD"}})], True),
        (
            "drop",
            [
                rule("FORWARD", 1, match(key, {"set": ["mbr-*", "mini_*"]}), ACCEPT)
                for key in ("iifname", "oifname")
            ],
            False,
        ),
    ],
)
def test_a_chain_that_drops_ours_is_recognized(policy: str, table: list[dict[str, Any]], drops: bool) -> None:
    assert drops_ours(forward(policy), table) is drops


def test_base_chains_of_others_for_ipv4() -> None:
    def chain(family: str, table: str, **more: str) -> dict[str, Any]:
        return {"chain": {"family": family, "table": table, "name": "c", **more}}

    nat = {"type": "nat", "hook": "postrouting", "policy": "accept"}
    listed = [
        chain("ip", "nat", **nat),
        chain("ip", "mini", **nat),
        chain("ip6", "nat", **nat),
        chain("ip", "nat"),
    ]
    assert base_chains(listed) == {BaseChain("ip", "nat", "c", "nat", "postrouting", "accept")}
    assert translates_for_others(base_chains(listed))
    assert not translates_for_others({forward()})


def test_the_kernels_messages_name_their_tables() -> None:
    def message(kind: int, table: bytes) -> bytes:
        attribute = struct.pack("=HH", 4 + len(table), 1) + table + bytes(-len(table) % 4)
        return struct.pack("=IHHII4x", 20 + len(attribute), 10 << 8 | kind, 0, 0, 0) + attribute

    generation = message(15, b"\0\0\0\1")
    data = message(6, b"filter\0") + message(3, b"mini\0") + generation
    assert list(changed_tables(data)) == ["filter", "mini"]
