"""Services that wait for others, until those have come far enough for the first time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.reconcile import affected
from minimanager.decide.scheduler.why import why
from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import (
    Dependency,
    DependencyCondition,
    ServiceMode,
    TaskState,
    TaskStatus,
)
from minimanager.domain.revisions import requested, revised
from support.simulation import Simulation, service, task_spec

STARTED, HEALTHY, COMPLETED = DependencyCondition


def depending(condition: DependencyCondition, *, replicas: int = 1) -> Simulation:
    """`web` depends on `db`, which is there and has not begun."""
    sim = Simulation()
    sim.put_service(service("db", replicas=2))
    put_web(sim, condition, replicas=replicas)
    sim.step()
    return sim


def put_web(sim: Simulation, condition: DependencyCondition, *, replicas: int = 1) -> None:
    web = service(replicas=replicas)
    sim.put_service(replace(web, spec=replace(web.spec, depends_on=(Dependency("db", condition),))))


def error(sim: Simulation) -> str:
    return sim.of()[-1].error


def placed(sim: Simulation) -> bool:
    return any(task.node_id for task in sim.of())


def run(sim: Simulation, count: int) -> None:
    """So many tasks of db run."""
    for task in sim.of("db")[:count]:
        sim.report(task.id, TaskState.RUNNING)


def test_started_is_one_task_that_runs() -> None:
    sim = depending(STARTED)
    sim.step()
    assert error(sim) == "waits for service db to start: none of its tasks runs"
    assert sim.of()[-1].state is TaskState.PENDING
    run(sim, 1)
    sim.step()
    assert placed(sim)
    assert error(sim) == ""


def test_healthy_is_every_task_that_is_wanted() -> None:
    sim = depending(HEALTHY)
    run(sim, 1)
    sim.step()
    assert error(sim) == "waits for service db to be healthy: 1 of 2 tasks are"
    second = sim.of("db")[1]
    sim.statuses[second.id] = TaskStatus(second.id, state=TaskState.RUNNING, not_ready=True)
    sim.step()
    assert not placed(sim)
    sim.statuses[second.id] = TaskStatus(second.id, state=TaskState.RUNNING)
    sim.step()
    assert placed(sim)


@pytest.mark.parametrize("mode", [ServiceMode.REPLICATED_JOB, ServiceMode.GLOBAL_JOB])
def test_completed_is_every_task_that_ended_well(mode: ServiceMode) -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service("db", replicas=2, mode=mode))
    put_web(sim, COMPLETED)
    sim.settle()
    assert error(sim) == "waits for service db to complete: 0 of 2 tasks are done"
    first, second = sim.of("db")
    sim.report(first.id, TaskState.COMPLETE)
    sim.step()
    assert not placed(sim)
    sim.report(second.id, TaskState.COMPLETE)
    sim.step()
    assert placed(sim)


def test_one_that_is_gone_or_no_job_is_named() -> None:
    sim = depending(COMPLETED)
    sim.step()
    assert error(sim) == "waits for service db to complete, which is no job"
    sim.remove_service("db")
    sim.step()
    assert error(sim) == "waits for service db, which does not exist"


def test_why_says_what_is_waited_for() -> None:
    sim = depending(HEALTHY)
    sim.step()
    answer = why(sim.snapshot(), sim.of()[-1], sim.now_ns)
    assert answer.summary == "web.1 is pending: it waits for service db to be healthy: 0 of 2 tasks are"
    assert answer.help == ("minictl service ps db",)


def test_what_has_begun_does_not_wait_again() -> None:
    sim = depending(HEALTHY, replicas=1)
    run(sim, 2)
    sim.settle()
    for task in sim.of("db"):
        sim.report(task.id, TaskState.FAILED)
    sim.update(replicas=2)
    sim.report(sim.of()[0].id, TaskState.FAILED)
    sim.step()
    assert [task.error for task in sim.live()] == ["", ""]
    assert all(task.node_id for task in sim.live())


def test_a_new_specification_waits_and_stops_nothing_meanwhile() -> None:
    sim = depending(STARTED, replicas=2)
    run(sim, 2)
    sim.settle()
    for task in sim.of("db"):
        sim.report(task.id, TaskState.FAILED)
    old = sim.services["web"]
    spec = replace(old.spec, task=task_spec(force_update=1))
    sim.put_service(requested(revised(old, spec, Belongings(), now_ns=sim.now_ns)))
    sim.step()
    sim.step()
    assert len(sim.running()) == 2
    assert sim.rollouts["web"].message == "waits for service db to start: none of its tasks runs"
    sim.settle_over_time()
    assert [task.spec_version for task in sim.running()] == [2, 2]
    assert sim.rollouts["web"].message == "update completed"


def test_the_other_service_wakes_those_that_wait() -> None:
    sim = depending(HEALTHY)
    db, (task, *_) = sim.services["db"], sim.of("db")
    assert "web" in affected(sim.snapshot(), "service", db, replace(db, removing=True))
    starting = TaskStatus(task.id, state=TaskState.STARTING)
    running = replace(starting, state=TaskState.RUNNING)
    assert "web" not in affected(sim.snapshot(), "status", None, starting)
    assert "web" in affected(sim.snapshot(), "status", starting, running)
    assert "web" in affected(sim.snapshot(), "status", replace(running, not_ready=True), running)
    assert "web" in affected(sim.snapshot(), "status", running, replace(running, state=TaskState.COMPLETE))
