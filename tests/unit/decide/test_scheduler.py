"""Which node a task goes to, and what it says when none will have it."""

from __future__ import annotations

import numpy as np
import pytest
from minimanager.decide.scheduler.filters import Refusal, explain
from minimanager.decide.scheduler.spread import order, spread
from minimanager.domain.objects import SECOND, Availability, NodeState, RestartPolicy, TaskState
from support.simulation import GIB, Simulation, host_port, service, task_spec


def error(sim: Simulation) -> str:
    (task,) = [task for task in sim.of() if task.state is TaskState.PENDING]
    return task.error


def test_nodes_that_are_not_ready_or_not_active_get_nothing() -> None:
    sim = Simulation(nodes=4)
    sim.set_node("node-1", NodeState.DOWN)
    sim.set_node("node-2", NodeState.UNKNOWN)
    sim.set_availability("node-3", Availability.PAUSE)
    sim.put_service(service(replicas=2))
    sim.settle()
    assert set(sim.where().values()) == {"node-4"}


def test_reservations_are_kept() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=9, task=task_spec(nano_cpus=10**9)))
    sim.settle()
    assert sorted(sim.where().values()) == ["", *["node-1"] * 4, *["node-2"] * 4]
    assert error(sim) == "no suitable node (insufficient resources on 2 nodes)"


def test_memory_counts_too_and_a_task_that_ends_makes_room() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service("big", task=task_spec(memory_bytes=6 * GIB)))
    sim.settle()
    sim.put_service(service("web", task=task_spec(memory_bytes=4 * GIB)))
    sim.settle()
    assert error(sim) == "no suitable node (insufficient resources on 1 node)"
    sim.remove_service("big")
    sim.settle()
    assert len(sim.running("web")) == 1


def test_a_host_port_is_given_once_per_node() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=3, ports=(host_port(80),)))
    sim.settle()
    assert sorted(sim.where().values()) == ["", "node-1", "node-2"]
    assert error(sim) == "no suitable node (host-mode port already in use on 2 nodes)"


def test_a_host_port_that_the_node_chooses_conflicts_with_none() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(replicas=3, ports=(host_port(0),)))
    sim.settle()
    assert len(sim.running()) == 3


def test_two_services_with_one_host_port_go_to_different_nodes() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service("one", ports=(host_port(80),)))
    sim.put_service(service("two", ports=(host_port(80),)))
    sim.settle()
    assert sim.where("one")[1] != sim.where("two")[1]


def test_every_reason_is_counted_the_most_frequent_first() -> None:
    sim = Simulation(nodes=4)
    sim.set_availability("node-1", Availability.PAUSE)
    sim.put_service(service("holder", replicas=1, ports=(host_port(80),), task=task_spec(nano_cpus=1)))
    sim.settle()
    sim.put_service(service("fill", replicas=2, task=task_spec(nano_cpus=4 * 10**9)))
    sim.settle()
    sim.put_service(service("web", ports=(host_port(80),), task=task_spec(nano_cpus=10**9)))
    sim.settle()
    assert error(sim) == (
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks; "
        "host-mode port already in use on 1 node)"
    )


def test_a_cluster_without_nodes_has_no_reasons() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service())
    sim.settle()
    assert error(sim) == "no suitable node"
    sim.add_node("late")
    sim.settle()
    assert len(sim.running()) == 1
    assert sim.of()[0].error == ""


def test_explain_speaks_of_one_node_in_the_singular() -> None:
    refused = (Refusal("a", "ready"), Refusal("b", "resource"), Refusal("c", "ready"))
    assert explain(refused) == (
        "no suitable node (2 nodes not available for new tasks; insufficient resources on 1 node)"
    )


def test_tasks_of_the_service_count_before_all_tasks() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service("web", replicas=1))
    sim.settle()
    sim.put_service(service("other", replicas=3))
    sim.settle()
    assert list(sim.where("other").values()).count("node-1") == 1  # node-1 has web already
    sim.update("web", replicas=2)
    sim.settle()
    assert sorted(sim.where("web").values()) == ["node-1", "node-2"]


def crash(sim: Simulation) -> str:
    """Let the only task fail; the node of its successor."""
    (task,) = sim.running()
    sim.report(task.id, TaskState.FAILED)
    sim.settle()
    return sim.running()[0].node_id


def test_a_node_on_which_the_task_keeps_failing_is_used_last() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=1, task=task_spec(restart=RestartPolicy(delay_ns=0))))
    sim.settle()
    assert [crash(sim) for _ in range(5)] == ["node-1"] * 4 + ["node-2"]


def test_old_failures_are_forgiven() -> None:
    sim = Simulation(nodes=2, history=-1)
    sim.put_service(service(replicas=1, task=task_spec(restart=RestartPolicy(delay_ns=0))))
    sim.settle()
    assert [crash(sim) for _ in range(6)] == ["node-1"] * 4 + ["node-2"] * 2
    sim.pass_time(300 * SECOND)
    assert crash(sim) == "node-1"


def test_a_node_with_failures_is_still_better_than_none() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(replicas=1, task=task_spec(restart=RestartPolicy(delay_ns=0))))
    sim.settle()
    assert [crash(sim) for _ in range(7)] == ["node-1"] * 7


def test_the_longest_waiting_service_is_served_first() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service("late-name-first", task=task_spec(nano_cpus=4 * 10**9)))
    sim.settle()
    sim.pass_time(SECOND)
    sim.put_service(service("a", task=task_spec(nano_cpus=4 * 10**9)))
    sim.settle()
    sim.add_node("only")
    sim.settle()
    assert (len(sim.running("late-name-first")), len(sim.running("a"))) == (1, 0)


@pytest.mark.parametrize("wanted", [0, 1, 7, 40])
def test_order_is_that_of_single_placements(wanted: int) -> None:
    room = np.array([3, 100, 5], dtype=np.int64)
    service_counts = np.array([0, 2, 0], dtype=np.int64)
    tasks = np.array([9, 2, 1], dtype=np.int64)
    placed = spread(
        wanted, room=room, service=service_counts, tasks=tasks, penalized=np.zeros(3, dtype=np.bool_)
    )
    sequence = order(placed, service_counts, tasks)
    for row in sequence:
        open_rows = [each for each in range(3) if room[each] > 0]
        assert row == min(open_rows, key=lambda each: (service_counts[each], tasks[each], each))
        room[row] -= 1
        service_counts[row] += 1
        tasks[row] += 1
    assert len(sequence) == wanted


def test_a_node_that_has_never_reported_is_not_available() -> None:
    sim = Simulation(nodes=2)
    del sim.node_statuses["node-1"]
    sim.put_service(service(replicas=2))
    sim.settle()
    assert set(sim.where().values()) == {"node-2"}


def test_different_host_ports_share_a_node() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service("one", ports=(host_port(80),)))
    sim.put_service(service("two", ports=(host_port(81),)))
    sim.settle()
    assert len(sim.running("one") + sim.running("two")) == 2
