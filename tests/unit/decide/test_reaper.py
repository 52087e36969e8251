"""History is kept to its limit."""

from __future__ import annotations

import pytest
from minimanager.domain.objects import RestartCondition, RestartPolicy, TaskState
from support.simulation import Simulation, service, task_spec


def crash(sim: Simulation, times: int) -> None:
    for _ in range(times):
        for task in sim.running():
            sim.report(task.id, TaskState.FAILED)
        sim.settle_over_time()


@pytest.mark.parametrize(("limit", "kept"), [(5, 5), (1, 1), (0, 1), (2, 2), (-1, 8)])
def test_a_slot_keeps_as_many_tasks_as_the_cluster_says(limit: int, kept: int) -> None:
    sim = Simulation(history=limit)
    sim.put_service(service(replicas=2))
    sim.settle()
    crash(sim, 7)
    assert [sum(task.slot == slot for task in sim.of()) for slot in (1, 2)] == [kept, kept]
    assert len(sim.running()) == 2


def test_the_oldest_go_first() -> None:
    sim = Simulation(history=3)
    sim.put_service(service(replicas=1))
    sim.settle()
    crash(sim, 6)
    assert [task.id for task in sim.of()] == ["task-00005", "task-00006", "task-00007"]


def test_without_a_cluster_object_the_default_holds() -> None:
    sim = Simulation()
    sim.cluster = None
    sim.put_service(service(replicas=1))
    sim.settle()
    crash(sim, 7)
    assert len(sim.of()) == 5


def test_the_last_word_of_a_slot_is_never_forgotten() -> None:
    sim = Simulation(history=0)
    sim.put_service(
        service(replicas=1, task=task_spec(restart=RestartPolicy(condition=RestartCondition.NONE)))
    )
    sim.settle()
    crash(sim, 1)
    assert [sim.state(task) for task in sim.of()] == [TaskState.FAILED]
    assert sim.decide().actions == ()
