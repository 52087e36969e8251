"""A node that is drained: its tasks move, and none stops before its successor runs, where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.domain.objects import (
    SECOND,
    Availability,
    NodeState,
    Placement,
    RestartCondition,
    RestartPolicy,
    Task,
    TaskState,
    UpdateConfig,
)
from support.simulation import Simulation, service, task_spec


def drained(
    *, nodes: int = 2, replicas: int = 1, placement: Placement | None = None, **task: object
) -> Simulation:
    """All tasks on node-1, which is being drained, and the other nodes new."""
    sim = Simulation(nodes=1)
    spec = task_spec(**task)  # type: ignore[arg-type]
    sim.put_service(service(replicas=replicas, task=spec, placement=placement or Placement()))
    sim.settle()
    for number in range(2, nodes + 1):
        sim.add_node(f"node-{number}")
    sim.set_availability("node-1", Availability.DRAIN)
    return sim


def wanted(sim: Simulation) -> dict[str, TaskState]:
    return {task.node_id: task.desired_state for task in sim.of()}


def test_the_successor_runs_before_the_task_stops() -> None:
    sim = drained()
    sim.step()
    assert wanted(sim) == {"node-1": TaskState.RUNNING, "node-2": TaskState.RUNNING}
    assert sim.step() == ()  # nothing more happens until the successor runs
    successor = sim.of()[-1]
    assert successor.not_before_ns == 0
    sim.report(successor.id, TaskState.RUNNING)
    sim.step()
    assert wanted(sim) == {"node-1": TaskState.SHUTDOWN, "node-2": TaskState.RUNNING}
    sim.settle()
    assert sim.where() == {1: "node-2"}


def test_at_no_time_do_fewer_run_and_one_slot_moves_at_a_time() -> None:
    sim = drained(replicas=4)
    for _ in range(30):
        sim.step()
        assert len(sim.running()) >= 4
        moving = [
            task for task in sim.live() if task.node_id != "node-1" and sim.state(task) < TaskState.RUNNING
        ]
        assert len(moving) <= 1
        sim.nodes_work()
    assert sim.where() == dict.fromkeys(range(1, 5), "node-2")


@pytest.mark.parametrize(("parallelism", "at_once"), [(1, 1), (2, 2), (0, 4)])
def test_as_many_slots_move_at_once_as_an_update_changes(parallelism: int, at_once: int) -> None:
    sim = drained(replicas=4)
    sim.update(update=UpdateConfig(parallelism=parallelism))
    sim.step()
    assert len([task for task in sim.live() if task.node_id == "node-2"]) == at_once
    sim.settle()
    assert len(sim.running()) == 4


def test_where_no_node_has_room_the_task_stops_all_the_same() -> None:
    sim = drained(nodes=1)
    sim.settle()
    (stopped, waiting) = sim.of()
    assert stopped.desired_state is TaskState.SHUTDOWN
    assert (waiting.node_id, waiting.error) == ("", "no suitable node (1 node not available for new tasks)")


def test_a_successor_that_fails_is_not_waited_for() -> None:
    sim = drained()
    sim.step()
    successor = sim.of()[-1]
    sim.report(successor.id, TaskState.FAILED)
    sim.step()
    assert sim.tasks[sim.of()[0].id].desired_state is TaskState.SHUTDOWN
    sim.settle()
    sim.pass_time(5 * SECOND)
    sim.settle()
    assert sim.where() == {1: "node-2"}
    assert len(sim.running()) == 1


def test_a_task_that_does_not_run_yet_is_not_waited_for() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service())
    sim.step()
    sim.add_node("node-2")
    sim.set_availability("node-1", Availability.DRAIN)
    sim.step()
    assert sim.of()[0].desired_state is TaskState.SHUTDOWN
    sim.settle()
    assert sim.where() == {1: "node-2"}


def test_a_task_that_may_not_restart_stops() -> None:
    sim = drained(restart=RestartPolicy(condition=RestartCondition.NONE))
    sim.settle()
    assert sim.live() == []


def test_a_node_that_goes_down_while_it_is_drained_is_not_waited_for() -> None:
    sim = drained()
    sim.step()
    sim.set_node("node-1", NodeState.DOWN)
    sim.step()
    assert wanted(sim)["node-1"] is TaskState.SHUTDOWN


def test_a_drain_that_is_called_off_keeps_the_task_that_runs() -> None:
    sim = drained()
    sim.step()
    first = sim.of()[0]
    sim.set_availability("node-1", Availability.ACTIVE)
    sim.settle()
    assert [task.id for task in sim.running()] == [first.id]


def test_a_drain_and_an_update_at_once_end_with_the_new_specification() -> None:
    sim = drained(replicas=3)
    sim.step()
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    assert {task.spec_version for task in sim.running()} == {2}
    assert set(sim.where().values()) == {"node-2"}


def test_scaling_down_while_a_node_is_drained() -> None:
    sim = drained(replicas=3)
    sim.step()
    sim.update(replicas=1)
    sim.settle()
    assert list(sim.where().values()) == ["node-2"]


def test_the_maximum_per_node_does_not_count_what_leaves() -> None:
    sim = drained(replicas=2, placement=Placement(max_replicas=2))
    sim.settle()
    assert sim.where() == {1: "node-2", 2: "node-2"}


def test_two_that_run_on_the_draining_node_in_one_slot_are_followed_by_one() -> None:
    sim = drained()
    (task,) = sim.of()
    twin: Task = replace(task, id="twin")
    sim.tasks["twin"] = twin
    sim.report("twin", TaskState.RUNNING)
    sim.settle()
    assert sim.where() == {1: "node-2"}
