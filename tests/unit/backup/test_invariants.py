"""What must hold among the stored objects: each rule broken once, and named."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from minimanager import codec
from minimanager.backup.invariants import examine
from minimanager.domain.objects import (
    Cluster,
    Network,
    NetworkAttachment,
    NetworkSpec,
    NetworkUse,
    Node,
    NodeSpec,
    NodeStatus,
    Object,
    PortConfig,
    PortProtocol,
    Rollout,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskStatus,
)
from minimanager.store.api import KeyValue, Range
from minimanager.store.keys import Keys, Kind

KEYS = Keys("c")

NETWORK = Network(id="n1", spec=NetworkSpec(name="back"), subnet="10.0.1.0/24")
SERVICE = Service(
    id="s1",
    spec=ServiceSpec(name="web", task=TaskSpec(networks=(NetworkUse(network="n1"),))),
    ports=(PortConfig(target_port=80, published_port=8080),),
)
TASK = Task(id="t1", service_id="s1", attachments=(NetworkAttachment(network_id="n1", address="10.0.1.5"),))
NODE = Node(id="m1", spec=NodeSpec(name="first"))
CLAIMS = {
    KEYS.name(Kind.NETWORK, "back"): "n1",
    KEYS.name(Kind.SERVICE, "web"): "s1",
    KEYS.name(Kind.NODE, "first"): "m1",
    KEYS.port(PortProtocol.TCP, 8080): "s1",
    KEYS.address("n1", "10.0.1.5"): "t1",
}
OBJECTS: tuple[Object, ...] = (Cluster(id="c"), NETWORK, SERVICE, TASK, NODE)


def listed(objects: Iterable[Object] = OBJECTS, claims: dict[str, str] | None = None) -> Range:
    values = {KEYS.of(each): codec.encode(each) for each in objects}
    values |= {key: owner.encode() for key, owner in (CLAIMS if claims is None else claims).items()}
    return Range(tuple(KeyValue(key, values[key], 1, 1) for key in sorted(values)), 9)


def problems(range_: Range) -> tuple[str, ...]:
    return examine(range_, KEYS).problems


def test_a_whole_cluster_has_none() -> None:
    found = examine(listed(), KEYS)
    assert found.problems == ()
    assert set(found.snapshot.tasks) == {"t1"}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (Task(id="t2", service_id="gone"), "task t2 is of service gone, which there is not"),
        (TaskStatus(id="t9"), "the status t9 is there without what it is of"),
        (NodeStatus(id="m9"), "the node status m9 is there without what it is of"),
        (Rollout(id="s9"), "the rollout s9 is there without what it is of"),
    ],
    ids=["task", "status", "node status", "rollout"],
)
def test_what_belongs_to_nothing(more: Object, problem: str) -> None:
    assert problems(listed((*OBJECTS, more))) == (problem,)


def test_no_cluster_and_no_network() -> None:
    without = [each for each in OBJECTS if each is not NETWORK and not isinstance(each, Cluster)]
    assert problems(listed(without)) == (
        "service s1 uses network n1, which there is not",
        "there is no cluster object",
        "the claim /mini/c/name/network/back belongs to n1, which has no use for it",
    )


@pytest.mark.parametrize("key", sorted(CLAIMS))
def test_a_claim_that_is_missing(key: str) -> None:
    rest = {each: owner for each, owner in CLAIMS.items() if each != key}
    assert problems(listed(claims=rest)) == (f"{CLAIMS[key]} has no claim {key}",)


@pytest.mark.parametrize("key", sorted(CLAIMS))
def test_a_claim_of_another(key: str) -> None:
    found = problems(listed(claims={**CLAIMS, key: "x9"}))
    assert f"the claim {key} belongs to x9, not to {CLAIMS[key]}" in found


@pytest.mark.parametrize(
    "key",
    [KEYS.name(Kind.SECRET, "old"), KEYS.port(PortProtocol.UDP, 53), KEYS.address("n1", "10.0.1.9")],
)
def test_a_claim_that_nobody_needs(key: str) -> None:
    (problem,) = problems(listed(claims={**CLAIMS, key: "x9"}))
    assert problem.startswith(f"the claim {key} belongs to x9, which has")


def test_keys_and_values_that_are_not_ours() -> None:
    strange = KeyValue("/mini/c/strange", b"", 1, 1)
    damaged = KeyValue(KEYS.object(Kind.CONFIG, "f1"), b"\xff", 1, 1)
    moved = KeyValue(KEYS.object(Kind.CONFIG, "f2"), codec.encode(NODE), 1, 1)
    found = problems(Range((*listed().items, strange, damaged, moved), 9))
    assert "the key /mini/c/strange is none that this version knows" in found
    assert any("config" in each for each in found)
    assert "the object at /mini/c/config/f2 says that it is m1" in found


def test_a_manager_says_which_keys_it_has() -> None:
    holder = KeyValue(KEYS.key_holder("m1"), b"0:0", 1, 1)
    assert problems(Range((*listed().items, holder), 9)) == ()
