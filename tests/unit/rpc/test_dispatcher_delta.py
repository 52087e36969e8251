"""Deltas: applied in their order they give the new set, and a task never stands without what it needs."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from minimanager.rpc.dispatcher.delta import Delta, difference, merged

KEYS = st.sampled_from(
    [
        "network/n1",
        "network/n2",
        "endpoint/n1/10.0.0.2",
        "endpoint/n1/10.0.0.3",
        "port/tcp/80",
        "task/t1",
        "task/t2",
    ]
)
SETS = st.dictionaries(KEYS, st.integers(0, 3))


def apply(state: dict[str, int], delta: Delta[int]) -> dict[str, int]:
    result = {**state, **dict(delta.ordered_upserts())}
    for key in delta.ordered_removals():
        del result[key]
    return result


@given(SETS, SETS)
def test_a_difference_turns_the_old_set_into_the_new(old: dict[str, int], new: dict[str, int]) -> None:
    delta = difference(old, new)
    assert apply(old, delta) == new
    assert bool(delta) == (old != new)


@given(st.lists(SETS, min_size=2, max_size=6))
def test_merged_differences_lead_from_the_first_set_to_the_last(sets: list[dict[str, int]]) -> None:
    steps = [difference(old, new) for old, new in pairwise(sets)]
    total = merged(steps)
    assert {**{k: v for k, v in sets[0].items() if k not in total.removals}, **total.upserts} == sets[-1]


def test_the_same_set_costs_nothing_and_gives_nothing() -> None:
    items = {"task/t1": 1}
    assert not difference(items, items)


def test_what_a_task_needs_comes_before_it() -> None:
    items = ("task/t1", "port/tcp/80", "service/n1/s", "endpoint/n1/10.0.0.2", "peer/node", "network/n1")
    order = ["network/n1", "peer/node", "endpoint/n1/10.0.0.2", "service/n1/s", "port/tcp/80", "task/t1"]
    assert [key for key, _ in difference({}, dict.fromkeys(items, 1)).ordered_upserts()] == order
    assert difference(dict.fromkeys(items, 1), {}).ordered_removals() == order[::-1]


def test_a_task_goes_before_what_it_needed() -> None:
    delta = difference({"network/n1": 1, "endpoint/n1/10.0.0.2": 1, "port/tcp/80": 1, "task/t1": 1}, {})
    assert delta.ordered_removals() == ["task/t1", "port/tcp/80", "endpoint/n1/10.0.0.2", "network/n1"]
