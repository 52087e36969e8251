"""Nodes that fall silent, leave, or are drained or paused."""

from __future__ import annotations

from minimanager.domain.objects import (
    HOUR,
    SECOND,
    Availability,
    NodeState,
    RestartCondition,
    RestartPolicy,
    TaskState,
)
from support.simulation import Simulation, ingress_port, service, task_spec


def spread(restart: RestartPolicy | None = None) -> Simulation:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=2, ports=(ingress_port(),), task=task_spec(restart=restart)))
    sim.settle()
    assert sorted(sim.where().values()) == ["node-1", "node-2"]
    return sim


def test_tasks_of_a_node_that_is_down_run_elsewhere_after_the_delay() -> None:
    sim = spread()
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle()
    lost = next(task for task in sim.of() if task.node_id == "node-2")
    assert lost.desired_state is TaskState.SHUTDOWN
    assert len(sim.running()) == 1
    sim.pass_time(5 * SECOND)
    sim.settle()  # nobody waits for the lost one to stop
    assert set(sim.where().values()) == {"node-1"}
    assert len(sim.running()) == 2
    assert sim.tasks[lost.id].attachments  # it may still run there with its address


def test_a_node_that_comes_back_stops_what_was_replaced() -> None:
    sim = spread()
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle_over_time()
    sim.set_node("node-2", NodeState.READY)
    sim.settle()
    assert len(sim.running()) == 2
    assert all(sim.state(task).finished for task in sim.of() if task.desired_state is TaskState.SHUTDOWN)


def test_tasks_that_may_not_restart_are_not_replaced() -> None:
    sim = spread(RestartPolicy(condition=RestartCondition.NONE))
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle_over_time()
    assert len(sim.running()) == 1


def test_a_removed_node_orphans_its_tasks_and_gives_their_addresses_back() -> None:
    sim = spread()
    sim.remove_node("node-2")
    sim.settle_over_time()
    (orphan,) = [task for task in sim.of() if sim.state(task) is TaskState.ORPHANED]
    assert (orphan.attachments, orphan.message) == ((), "node has been removed")
    assert len(sim.running()) == 2


def test_a_day_of_silence_orphans_too() -> None:
    sim = spread()
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle_over_time()
    assert sim.wake_at_ns is not None
    sim.pass_time(24 * HOUR)
    sim.settle()
    assert [task.message for task in sim.of() if sim.state(task) is TaskState.ORPHANED] == [
        "node has been down for 24 hours"
    ]


def test_a_paused_node_keeps_its_tasks_and_gets_no_new_ones() -> None:
    sim = spread()
    sim.set_availability("node-2", Availability.PAUSE)
    sim.update(replicas=4)
    sim.settle()
    assert sorted(sim.where().values()) == ["node-1", "node-1", "node-1", "node-2"]


def test_a_disconnected_node_keeps_its_tasks() -> None:
    sim = spread()
    sim.set_node("node-2", NodeState.DISCONNECTED)
    assert sim.decide().actions == ()


def test_removing_a_service_does_not_wait_for_a_node_that_is_down() -> None:
    sim = spread()
    sim.set_node("node-2", NodeState.DOWN)
    sim.remove_service()
    sim.settle()
    assert (sim.of(), sim.services) == ([], {})
