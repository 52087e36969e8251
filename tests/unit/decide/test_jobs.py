"""Replicated jobs: so many completions, so many at once, and what counts as done."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimanager.decide.wants import Wants, wants
from minimanager.domain.objects import (
    SECOND,
    Availability,
    NodeState,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    TaskState,
)
from support.simulation import Simulation, service, task_spec

JOB = ServiceMode.REPLICATED_JOB


def started(
    replicas: int = 3, max_concurrent: int = 0, *, restart: RestartPolicy | None = None
) -> Simulation:
    sim = Simulation()
    spec = task_spec(restart=restart)
    sim.put_service(service(replicas=replicas, max_concurrent=max_concurrent, mode=JOB, task=spec))
    sim.settle()
    return sim


def finish(sim: Simulation, slot: int, state: TaskState = TaskState.COMPLETE) -> None:
    (task,) = (task for task in sim.running() if task.slot == slot)
    sim.report(task.id, state)
    sim.settle()


def slots(sim: Simulation) -> list[int]:
    return [task.slot for task in sim.running()]


def counted(sim: Simulation) -> Wants:
    return wants(sim.snapshot(), sim.services["web"])


def test_all_run_at_once_unless_told_otherwise() -> None:
    sim = started(3)
    assert slots(sim) == [1, 2, 3]
    assert {task.desired_state for task in sim.of()} == {TaskState.COMPLETE}


def test_no_more_than_max_concurrent_and_each_slot_once() -> None:
    sim = started(4, 2)
    assert (slots(sim), counted(sim)) == ([1, 2], Wants(2))
    finish(sim, 1)
    assert (slots(sim), counted(sim)) == ([2, 3], Wants(2, completed=1))
    finish(sim, 3)
    finish(sim, 2)
    assert (slots(sim), counted(sim)) == ([4], Wants(1, completed=3))
    finish(sim, 4)
    assert (slots(sim), counted(sim)) == ([], Wants(0, completed=4))
    assert len(sim.of()) == 4
    assert sim.decide().actions == ()


@pytest.mark.parametrize("condition", [RestartCondition.ANY, RestartCondition.ON_FAILURE])
def test_a_failure_is_tried_again_and_a_completion_is_not(condition: RestartCondition) -> None:
    sim = started(2, restart=RestartPolicy(condition))
    finish(sim, 1)
    finish(sim, 2, TaskState.FAILED)
    assert sim.live()[0].desired_state is TaskState.READY
    sim.pass_time(5 * SECOND)
    sim.settle()
    assert slots(sim) == [2]
    assert sim.running()[0].desired_state is TaskState.COMPLETE


def test_what_is_granted_no_other_try_is_given_up() -> None:
    sim = started(2, restart=RestartPolicy(RestartCondition.NONE))
    finish(sim, 1)
    finish(sim, 2, TaskState.FAILED)
    assert (slots(sim), counted(sim)) == ([], Wants(0, completed=1, given_up=1))


def test_attempts_are_limited() -> None:
    sim = started(1, restart=RestartPolicy(max_attempts=1, delay_ns=0))
    finish(sim, 1, TaskState.FAILED)
    assert counted(sim) == Wants(1)
    finish(sim, 1, TaskState.FAILED)
    assert counted(sim) == Wants(0, given_up=1)


def test_a_change_begins_a_new_iteration_and_removes_what_runs_of_the_old() -> None:
    sim = started(3, 2)
    finish(sim, 1)
    old = {task.id for task in sim.running()}
    sim.update(labels={"again": "1"})
    sim.step()
    assert {task.desired_state for task in sim.of() if task.id in old} == {TaskState.REMOVE}
    assert all(task.spec_version == 1 for task in sim.of())  # what stops still counts
    sim.settle()
    assert (slots(sim), counted(sim)) == ([1, 2], Wants(2))
    assert old.isdisjoint(sim.tasks)
    assert [task.spec_version for task in sim.of() if task.slot == 1] == [1, 2]


def test_scaling_runs_the_new_number_from_the_start() -> None:
    sim = started(2)
    finish(sim, 1)
    finish(sim, 2)
    sim.update(replicas=1)
    sim.settle()
    assert (slots(sim), counted(sim)) == ([1], Wants(1))
    assert {task.slot for task in sim.of()} == {1}


@pytest.mark.parametrize("lost", [True, False])
def test_a_task_that_loses_its_node_runs_elsewhere(lost: bool) -> None:
    sim = started(1)
    (task,) = sim.running()
    if lost:
        sim.set_node(task.node_id, NodeState.DOWN)
    else:
        sim.set_availability(task.node_id, Availability.DRAIN)
    sim.settle_over_time()
    (again,) = sim.running()
    assert (again.slot, again.node_id != task.node_id) == (1, True)


@settings(deadline=None)
@given(
    replicas=st.integers(0, 6),
    max_concurrent=st.integers(0, 4),
    ends=st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=20),
)
def test_never_more_at_once_and_never_a_slot_twice(
    replicas: int, max_concurrent: int, ends: list[tuple[int, bool, bool]]
) -> None:
    """Whatever ends in which order, and whenever the job is changed."""
    sim = started(replicas, max_concurrent, restart=RestartPolicy(delay_ns=0))
    limit = min(max_concurrent or replicas, replicas)
    done: set[int] = set()
    for slot, well, change in ends:
        for task in sim.running():
            if task.slot == slot:
                sim.report(task.id, TaskState.COMPLETE if well else TaskState.FAILED)
                done |= {slot} if well else set()
        if change:
            sim.update(labels={"n": str(sim.revision)})
            done.clear()
        while sim.step() or sim.nodes_work():
            assert sum(not sim.state(task).finished for task in sim.of()) <= limit
        assert not done & set(slots(sim))
        assert counted(sim).completed == len(done)
        assert len(sim.running()) == min(limit, replicas - len(done))


def test_a_node_begins_a_global_jobs_next_iteration_when_the_last_one_has_stopped() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(mode=ServiceMode.GLOBAL_JOB, replicas=0))
    sim.step()
    for task in sim.of():
        sim.report(task.id, TaskState.RUNNING)
    sim.update(task=task_spec(force_update=1))
    sim.step()
    assert {task.spec_version for task in sim.live()} == set()
    first, second = sim.of()
    sim.report(first.id, TaskState.SHUTDOWN)
    sim.set_node(second.node_id, NodeState.DOWN)
    sim.step()
    assert [(task.place, task.spec_version) for task in sim.live()] == [(first.place, 2)]
    sim.set_node(second.node_id, NodeState.READY)
    sim.settle()
    assert sorted(task.spec_version for task in sim.live()) == [2, 2]
