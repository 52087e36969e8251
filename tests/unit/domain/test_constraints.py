"""Which nodes a constraint lets pass, and which constraints are none."""

from __future__ import annotations

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.domain.constraints import KEYS, parse_constraint, unmet
from minimanager.domain.objects import (
    Node,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeStatus,
    Placement,
    ServiceSpec,
)
from minimanager.domain.validate_placement import MAX_CONSTRAINTS, MAX_LEVELS, validate_placement

NODE = Node(
    "n1", spec=NodeSpec(labels={"zone": "EU-1", "rank": "2.5", "Odd.Key/x": "y"}, role=NodeRole.MANAGER)
)
STATUS = NodeStatus(
    "n1",
    address="10.77.0.12",
    description=NodeDescription(
        hostname="core-02", os="linux", architecture="x86_64", engine_labels={"disk": "ssd"}
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        "node.id==n1",
        "node.id == N1",
        "node.id!=n2",
        "node.hostname==core-02",
        "NODE.Hostname==CORE-02",
        "node.hostname=~^core-\\d+$",
        "node.hostname in (core-01, Core-02)",
        "node.ip==10.77.0.12",
        "node.ip==10.77.0.0/24",
        "node.ip!=10.78.0.0/24",
        "node.ip!=fd00::/8",
        "node.ip in (10.1.0.0/16,10.77.0.0/24)",
        "node.role==manager",
        "node.role!=worker",
        "node.platform.os==linux",
        "node.platform.arch==x86_64",
        "node.platform.arch==amd64",
        "node.labels.zone==eu-1",
        "node.labels.zone =~ eu|us",
        "node.labels.Odd.Key/x==y",
        "node.labels.missing!=x",
        "node.labels.rank<3",
        "node.labels.rank > 2",
        "engine.labels.disk==SSD",
        "engine.labels.disk IN(hdd,ssd)",
    ],
)
def test_a_constraint_that_holds(text: str) -> None:
    assert parse_constraint(text).holds(NODE, STATUS)


@pytest.mark.parametrize(
    "text",
    [
        "node.id!=n1",
        "node.hostname==core",
        "node.hostname=~^ore",
        "node.ip==10.77.1.0/24",
        "node.ip==fd00::/8",
        "node.ip!=10.77.0.0/24",
        "node.role==worker",
        "node.platform.arch==arm64",
        "node.labels.ZONE==eu-1",
        "node.labels.missing==x",
        "node.labels.missing=~x",
        "node.labels.missing<1",
        "node.labels.zone>1",
        "node.labels.rank<2.5",
        "node.labels.rank>2.5",
        "engine.labels.disk in (hdd,nvme)",
    ],
)
def test_a_constraint_that_does_not_hold(text: str) -> None:
    assert not parse_constraint(text).holds(NODE, STATUS)


def test_a_node_that_has_never_reported_has_only_what_its_specification_says() -> None:
    assert unmet(("node.role==manager", "node.labels.zone==eu-1"), NODE, None) == ()
    texts = ("node.ip==10.77.0.12", "node.hostname==core-02", "node.platform.os==linux")
    assert [each.text for each in unmet(texts, NODE, None)] == list(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be KEY==VALUE, with one of the operators ==, !=, =~, <, > and in"),
        ("node.role", "must be KEY==VALUE"),
        ("node.role=manager", "must be KEY==VALUE"),
        ("==x", "must be KEY==VALUE"),
        ("node.rolex==manager", f"the key 'node.rolex' must be one of {', '.join(KEYS)}"),
        ("node.labels.==x", "the key 'node.labels.' must be one of"),
        ("node.labels.a$b==x", "the key 'node.labels.a$b' must be one of"),
        ("node.labels.a==", "the value is missing"),
        ("node.labels.a in (a,)", "the value is missing"),
        ("node.labels.a in a,b", "in needs a list: KEY in (VALUE,VALUE)"),
        ("node.labels.a<=3", "< needs a number, not '=3'"),
        ("node.labels.a>x", "> needs a number, not 'x'"),
        ("node.labels.a<nan", "< needs a number, not 'nan'"),
        ("node.hostname<3", "< compares labels, and node.hostname is none"),
        ("node.role==boss", "a role is one of worker, manager, not 'boss'"),
        ("node.ip==core-01", "'core-01' is neither an address nor a subnet"),
        ("node.ip=~10", "an address is compared with an address or a subnet, not with a pattern"),
        ("node.labels.a=~(", "'(' is no regular expression that can be used here: missing )"),
    ],
)
def test_what_is_no_constraint_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_constraint(text)
    assert caught.value.message.startswith(f"invalid constraint {text!r}: {message}")


def test_a_placement_without_anything_is_the_default() -> None:
    assert validate_placement(Placement(), "web") == Placement() == ServiceSpec().placement


def test_spreading_keys_get_their_normal_form() -> None:
    placement = validate_placement(Placement(spread_over=("Node.Labels.Zone", "engine.labels.rack")), "web")
    assert placement.spread_over == ("node.labels.Zone", "engine.labels.rack")


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(constraints=("x",)), "invalid constraint 'x'"),
        (Placement(constraints=("node.id==a",) * (MAX_CONSTRAINTS + 1)), "at most 100 constraints, not 101"),
        (Placement(constraints=("node.id==" + "a" * 1000,)), "must be at most 1000 bytes without NUL"),
        (Placement(constraints=("node.id==a\0",)), "must be at most 1000 bytes without NUL"),
        (
            Placement(spread_over=("node.role",)),
            "tasks are spread over node.labels.LABEL or engine.labels.LABEL",
        ),
        (Placement(spread_over=("node.labels.a",) * (MAX_LEVELS + 1)), "at most 8 preferences, not 9"),
        (
            Placement(affinity=("db",) * 101),
            "affinity and anti-affinity may name at most 100 services, not 101",
        ),
        (Placement(affinity=("-db",)), "name must be valid as a DNS name component"),
        (Placement(anti_affinity=("web",)), "a service has no affinity to itself, 'web'"),
        (Placement(affinity=("db",), anti_affinity=("db",)), "affinity and anti-affinity both name 'db'"),
        (Placement(max_replicas=-1), "max replicas per node must be 0 (no limit) to 1000000, not -1"),
    ],
)
def test_what_is_no_placement_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate_placement(placement, "web")
    assert message in caught.value.message
