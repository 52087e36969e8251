"""Which nodes a service's placement chooses, and what happens when a node or the placement changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minimanager.decide.reconcile import affected
from minimanager.decide.scheduler.spread import spread
from minimanager.decide.tries import UNSUITED
from minimanager.domain.objects import (
    NodeState,
    Placement,
    PlacementStrategy,
    RestartCondition,
    RestartPolicy,
    TaskState,
)
from support.simulation import GIB, Simulation, service, task_spec

EU = Placement(constraints=("node.labels.zone==eu",))
PACKED = Placement(strategy=PlacementStrategy.BINPACK)


def zones(*names: str) -> Simulation:
    """A node for each name, in this zone."""
    sim = Simulation(nodes=len(names))
    for number, zone in enumerate(names, 1):
        sim.label(f"node-{number}", zone=zone)
    return sim


def per_node(sim: Simulation, service_id: str = "web") -> dict[str, int]:
    return dict(Counter(node_id for node_id in sim.where(service_id).values() if node_id))


# --- constraints ---


def test_only_nodes_that_satisfy_every_constraint_get_tasks() -> None:
    sim = zones("eu", "us", "eu")
    placement = Placement(constraints=("node.labels.zone==eu", "node.id!=node-1"))
    sim.put_service(service(replicas=3, placement=placement))
    sim.settle()
    assert per_node(sim) == {"node-3": 3}


def test_a_task_that_no_node_satisfies_waits_with_the_reason_and_goes_when_one_does() -> None:
    sim = zones("us", "asia")
    sim.put_service(service(placement=EU))
    sim.settle()
    (task,) = sim.of()
    assert task.error == "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    sim.label("node-2", zone="eu")
    sim.settle()
    assert per_node(sim) == {"node-2": 1}
    assert sim.running()[0].error == ""


def test_a_task_whose_node_no_longer_satisfies_moves_at_once() -> None:
    sim = zones("eu", "eu")
    sim.put_service(service(replicas=2, placement=EU))
    sim.settle()
    sim.label("node-1", zone="us")
    sim.settle()
    assert per_node(sim) == {"node-2": 2}
    (moved,) = [task for task in sim.of() if task.node_id == "node-1"]
    assert (moved.desired_state, moved.error) == (TaskState.SHUTDOWN, UNSUITED)


def test_the_constraints_of_now_count_not_those_of_when_the_task_was_made() -> None:
    sim = zones("eu", "us")
    sim.put_service(service(replicas=2))
    sim.settle()
    assert per_node(sim) == {"node-1": 1, "node-2": 1}
    stays = next(task for task in sim.running() if task.node_id == "node-1")
    sim.update(placement=EU)
    sim.settle()
    assert per_node(sim) == {"node-1": 2}
    assert stays.id in {task.id for task in sim.running()}


def test_a_new_placement_leaves_tasks_alone_that_still_fit() -> None:
    sim = zones("eu", "eu")
    sim.put_service(service(replicas=2))
    sim.settle()
    sim.update(placement=replace(EU, spread_over=("node.labels.zone",), max_replicas=1))
    assert sim.decide().actions == ()


def test_a_task_that_may_not_restart_is_not_moved_elsewhere() -> None:
    sim = zones("eu", "eu")
    never = RestartPolicy(condition=RestartCondition.NONE)
    sim.put_service(service(placement=EU, task=task_spec(restart=never)))
    sim.settle()
    sim.label(sim.where()[1], zone="us")
    sim.settle()
    assert sim.live() == []


# --- a maximum per node ---


def test_no_node_gets_more_than_the_maximum() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=5, placement=Placement(max_replicas=2)))
    sim.settle()
    assert per_node(sim) == {"node-1": 2, "node-2": 2}
    (waiting,) = [task for task in sim.of() if not task.node_id]
    assert waiting.error == "no suitable node (max replicas per node limit exceed)"


def test_a_task_that_is_replaced_does_not_count_beside_its_successor() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(replicas=2, placement=Placement(max_replicas=2)))
    sim.settle()
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    assert [task.spec_version for task in sim.running()] == [2, 2]


# --- preferences ---


def test_branches_are_filled_evenly_before_the_nodes_in_them() -> None:
    sim = zones("eu", "eu", "eu", "us")
    sim.put_service(service(replicas=6, placement=Placement(spread_over=("node.labels.zone",))))
    sim.settle()
    assert per_node(sim) == {"node-1": 1, "node-2": 1, "node-3": 1, "node-4": 3}


def test_nodes_without_the_label_are_a_branch_of_their_own() -> None:
    sim = zones("eu", "us", "")
    sim.label("node-3")
    sim.add_node("node-4")
    sim.put_service(service(replicas=6, placement=Placement(spread_over=("node.labels.zone",))))
    sim.settle()
    assert per_node(sim) == {"node-1": 2, "node-2": 2, "node-3": 1, "node-4": 1}


def test_preferences_nest() -> None:
    sim = Simulation(nodes=4)
    for number, (zone, rack) in enumerate((("eu", "1"), ("eu", "1"), ("eu", "2"), ("us", "1")), 1):
        sim.label(f"node-{number}", zone=zone, rack=rack)
    nested = Placement(spread_over=("node.labels.zone", "node.labels.rack"))
    sim.put_service(service(replicas=8, placement=nested))
    sim.settle()
    assert per_node(sim) == {"node-1": 1, "node-2": 1, "node-3": 2, "node-4": 4}


def test_a_full_branch_gives_what_it_cannot_take_to_the_others() -> None:
    sim = zones("eu", "us", "us")
    placement = Placement(spread_over=("node.labels.zone",), max_replicas=2)
    sim.put_service(service(replicas=6, placement=placement))
    sim.settle()
    assert per_node(sim) == {"node-1": 2, "node-2": 2, "node-3": 2}


@given(st.data())
def test_a_tree_is_filled_as_by_single_placements(data: st.DataObject) -> None:
    """Each task alone would take at each level the branch with the fewest tasks that has room, then the node."""
    size = data.draw(st.integers(1, 7))
    draw = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    room, service_tasks, others = (np.array(data.draw(draw), dtype=np.int64) for _ in range(3))
    levels = [np.array(data.draw(draw), dtype=np.int64) for _ in range(data.draw(st.integers(0, 2)))]
    wanted = data.draw(st.integers(0, 12))
    tasks = service_tasks + others
    none = np.zeros(size, dtype=np.bool_)
    placed = spread(wanted, room=room, service=service_tasks, tasks=tasks, penalized=none, levels=levels)
    expected = np.zeros(size, dtype=np.int64)
    for _ in range(min(wanted, int(room.sum()))):
        rows = list(range(size))
        for level in levels:
            branches = sorted({int(level[row]) for row in rows})
            inside = {each: [row for row in rows if level[row] == each] for each in branches}
            rows = min(
                (inside[each] for each in branches if any(expected[row] < room[row] for row in inside[each])),
                key=lambda some: (sum((service_tasks + expected)[some]), sum((tasks + expected)[some])),
            )
        row = min(
            (row for row in rows if expected[row] < room[row]),
            key=lambda row: (service_tasks[row] + expected[row], tasks[row] + expected[row], row),
        )
        expected[row] += 1
    assert placed.tolist() == expected.tolist()


# --- neighbors ---


def test_a_service_goes_where_the_other_is() -> None:
    sim = Simulation(nodes=3)
    sim.put_service(service("db"))
    sim.settle()
    sim.put_service(service(replicas=2, placement=Placement(affinity=("db",))))
    sim.settle()
    assert set(sim.where().values()) == set(sim.where("db").values())


def test_it_waits_for_the_other_and_goes_when_it_comes() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(placement=Placement(affinity=("db",))))
    sim.settle()
    assert sim.of()[0].error == "no suitable node (affinity to other services not satisfied on 2 nodes)"
    sim.put_service(service("db"))
    sim.step()
    (arrived,) = sim.of("db")
    assert affected(sim.snapshot(), "task", None, arrived) == {"db", "web"}
    sim.settle()
    assert sim.where() == sim.where("db")
    assert affected(sim.snapshot(), "task", None, arrived) == {"db"}  # nothing waits any more


def test_services_are_kept_apart_whichever_comes_first() -> None:
    apart = Placement(anti_affinity=("db",))
    for first, second in (("db", "web"), ("web", "db")):
        sim = Simulation(nodes=3)
        for name in (first, second):
            placement = apart if name == "web" else Placement()
            sim.put_service(service(name, replicas=2, placement=placement))
            sim.settle()
        assert not set(sim.where("web").values()) & set(sim.where("db").values())
        waiting = [task for task in sim.of(second) if not task.node_id]
        assert [task.error for task in waiting] == []


def test_a_task_that_is_stopping_still_keeps_others_away_but_attracts_none() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service("db"))
    sim.settle()
    sim.remove_service("db")
    sim.step()  # it is told to stop and has not stopped
    sim.put_service(service("near", placement=Placement(affinity=("db",))))
    sim.put_service(service("apart", placement=Placement(anti_affinity=("db",))))
    sim.step()
    assert (sim.where("near"), sim.where("apart")) == ({1: ""}, {1: ""})
    sim.settle()
    assert (sim.where("near"), sim.where("apart")) == ({1: ""}, {1: "node-1"})


# --- bin packing ---


def test_packing_fills_the_fullest_node_before_the_next() -> None:
    sim = Simulation(nodes=3)
    sim.put_service(service("first", task=task_spec(memory_bytes=2 * GIB)))
    sim.settle()
    fullest = sim.where("first")[1]
    sim.put_service(service(replicas=5, placement=PACKED, task=task_spec(memory_bytes=2 * GIB)))
    sim.settle()
    counts = per_node(sim)
    assert counts[fullest] == 3
    assert sorted(counts.values()) == [2, 3]


def test_packing_keeps_the_maximum_per_node_and_skips_nodes_that_are_down() -> None:
    sim = Simulation(nodes=3)
    sim.set_node("node-1", NodeState.DOWN)
    sim.put_service(service(replicas=4, placement=replace(PACKED, max_replicas=3)))
    sim.settle()
    assert per_node(sim) == {"node-2": 3, "node-3": 1}


@pytest.mark.parametrize("strategy", PlacementStrategy)
def test_a_tree_may_have_packed_leaves(strategy: PlacementStrategy) -> None:
    sim = zones("eu", "eu", "us", "us")
    placement = Placement(spread_over=("node.labels.zone",), strategy=strategy)
    sim.put_service(service(replicas=4, placement=placement))
    sim.settle()
    packed = {"node-1": 2, "node-3": 2}
    even = {f"node-{number}": 1 for number in range(1, 5)}
    assert per_node(sim) == (packed if strategy is PlacementStrategy.BINPACK else even)
