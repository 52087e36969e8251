"""Global services and global jobs: each node that may have a task has one."""

from __future__ import annotations

import pytest
from minimanager.decide.affected import affected
from minimanager.decide.wants import Wants, wants
from minimanager.domain.objects import (
    SECOND,
    Availability,
    NodeState,
    Placement,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    Task,
    TaskState,
)
from support.simulation import Simulation, host_port, service, task_spec

BOTH = pytest.mark.parametrize("mode", [ServiceMode.GLOBAL, ServiceMode.GLOBAL_JOB])


def started(mode: ServiceMode = ServiceMode.GLOBAL, *, nodes: int = 3, **changes: object) -> Simulation:
    sim = Simulation(nodes)
    sim.put_service(service("web", replicas=0, mode=mode, **changes))
    sim.settle()
    return sim


def on(sim: Simulation, node_id: str) -> list[Task]:
    """The service's tasks whose place is the node, oldest first."""
    return [task for task in sim.of() if task.bound_node_id == node_id]


def nodes(sim: Simulation) -> list[str]:
    return sorted(task.node_id for task in sim.running())


def counted(sim: Simulation) -> Wants:
    return wants(sim.snapshot(), sim.services["web"])


@BOTH
def test_every_node_has_one_task_named_after_it(mode: ServiceMode) -> None:
    sim = started(mode)
    assert nodes(sim) == ["node-1", "node-2", "node-3"]
    assert {task.name for task in sim.of()} == {"web.node-1", "web.node-2", "web.node-3"}
    assert {task.slot for task in sim.of()} == {0}
    assert counted(sim) == Wants(3)


@BOTH
def test_a_node_that_joins_gets_one_too(mode: ServiceMode) -> None:
    sim = started(mode, nodes=1)
    sim.add_node("node-9")
    status = sim.node_statuses["node-9"]
    assert affected(sim.snapshot(), "node-status", None, status) == {"web"}
    sim.settle()
    assert nodes(sim) == ["node-1", "node-9"]


@BOTH
def test_a_node_that_leaves_takes_its_tasks_with_it(mode: ServiceMode) -> None:
    sim = started(mode)
    sim.remove_node("node-2")
    sim.settle()
    assert sorted(task.bound_node_id for task in sim.of()) == ["node-1", "node-3"]


def test_a_drained_node_loses_its_task_and_gets_a_new_one_when_it_is_back() -> None:
    sim = started(task=task_spec(restart=RestartPolicy(RestartCondition.NONE)))
    sim.set_availability("node-2", Availability.DRAIN)
    sim.settle()
    assert nodes(sim) == ["node-1", "node-3"]
    assert counted(sim) == Wants(2)
    sim.set_availability("node-2", Availability.ACTIVE)
    sim.settle()
    assert nodes(sim) == ["node-1", "node-2", "node-3"]
    assert [sim.state(task) for task in on(sim, "node-2")] == [TaskState.SHUTDOWN, TaskState.RUNNING]


def test_a_paused_node_keeps_its_task_and_gets_no_other() -> None:
    sim = started(task=task_spec(restart=RestartPolicy(delay_ns=0)))
    sim.set_availability("node-2", Availability.PAUSE)
    sim.settle()
    assert counted(sim) == Wants(3)
    sim.report(on(sim, "node-2")[0].id, TaskState.FAILED)
    sim.settle()
    assert (nodes(sim), counted(sim)) == (["node-1", "node-3"], Wants(2))
    sim.set_availability("node-2", Availability.ACTIVE)
    sim.settle()
    assert len(nodes(sim)) == 3


def test_a_node_that_does_not_answer_keeps_its_task_for_its_return() -> None:
    sim = started()
    (before,) = on(sim, "node-2")
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle()
    assert counted(sim) == Wants(2)
    sim.set_node("node-2", NodeState.READY)
    sim.settle()
    assert [(task.id, sim.state(task)) for task in on(sim, "node-2")] == [(before.id, TaskState.RUNNING)]


def test_labels_decide_which_nodes_have_one() -> None:
    sim = started(placement=Placement(constraints=("node.labels.disk==ssd",)))
    assert sim.of() == []
    sim.label("node-2", disk="ssd")
    sim.settle()
    assert nodes(sim) == ["node-2"]
    sim.label("node-2", disk="hdd")
    sim.settle()
    assert nodes(sim) == []
    (stopped,) = on(sim, "node-2")
    assert (sim.state(stopped), stopped.error) == (
        TaskState.SHUTDOWN,
        "assigned node no longer meets constraints",
    )


def test_a_node_without_room_says_so_and_the_others_run() -> None:
    sim = Simulation(2)
    sim.add_node("small", nano_cpus=10**9)
    sim.put_service(service(replicas=0, mode=ServiceMode.GLOBAL, task=task_spec(nano_cpus=2 * 10**9)))
    sim.settle()
    assert nodes(sim) == ["node-1", "node-2"]
    (waiting,) = on(sim, "small")
    assert waiting.error == "no suitable node (insufficient resources on 1 node)"
    assert (waiting.state, waiting.node_id) == (TaskState.PENDING, "")
    assert counted(sim) == Wants(3)


def test_a_host_port_is_no_obstacle_to_ones_own_successor() -> None:
    sim = started(ports=(host_port(80),), task=task_spec(restart=RestartPolicy(delay_ns=0)))
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    assert len(nodes(sim)) == 3
    assert {task.spec_version for task in sim.running()} == {2}


def test_a_failed_task_is_tried_again_on_its_node_after_the_delay() -> None:
    sim = started()
    sim.report(on(sim, "node-2")[0].id, TaskState.FAILED)
    sim.settle()
    assert on(sim, "node-2")[-1].desired_state is TaskState.READY
    sim.pass_time(5 * SECOND)
    sim.settle()
    assert nodes(sim) == ["node-1", "node-2", "node-3"]


def test_history_is_kept_per_node() -> None:
    sim = Simulation(2, history=3)
    policy = RestartPolicy(delay_ns=0)
    sim.put_service(service(replicas=0, mode=ServiceMode.GLOBAL, task=task_spec(restart=policy)))
    sim.settle()
    for _ in range(6):
        sim.report(on(sim, "node-1")[-1].id, TaskState.FAILED)
        sim.settle()
    assert (len(on(sim, "node-1")), len(on(sim, "node-2"))) == (3, 1)


def test_a_global_job_is_done_once_per_node_and_new_nodes_run_it_too() -> None:
    sim = started(ServiceMode.GLOBAL_JOB, nodes=2)
    for task in sim.of():
        assert task.desired_state is TaskState.COMPLETE
        sim.report(task.id, TaskState.COMPLETE)
    sim.settle_over_time()
    assert (sim.running(), counted(sim)) == ([], Wants(0, completed=2))
    assert {task.desired_state for task in sim.of()} == {TaskState.COMPLETE}
    sim.add_node("node-9")
    sim.settle()
    assert (nodes(sim), counted(sim)) == (["node-9"], Wants(1, completed=2))


def test_a_global_job_that_is_updated_runs_everywhere_again() -> None:
    sim = started(ServiceMode.GLOBAL_JOB, nodes=2)
    sim.report(on(sim, "node-1")[0].id, TaskState.COMPLETE)
    (old,) = on(sim, "node-2")
    sim.settle()
    sim.update(labels={"again": "1"})
    sim.settle()
    assert [task.spec_version for task in sim.running()] == [2, 2]
    assert old.id not in sim.tasks
