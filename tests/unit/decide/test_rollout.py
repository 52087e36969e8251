"""Rolling updates: places are replaced lane by lane; what fails is paused or rolled back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import (
    SECOND,
    FailureAction,
    Network,
    NetworkSpec,
    NetworkUse,
    RestartPolicy,
    RolloutState,
    TaskState,
    UpdateConfig,
    UpdateOrder,
    VirtualAddress,
)
from minimanager.domain.revisions import requested, revised
from support.simulation import Simulation, service, task_spec

CALM = RestartPolicy(delay_ns=3600 * SECOND)
"""A slot that failed is not tried again while a test looks."""


def settled(replicas: int = 4, **config: object) -> Simulation:
    sim = Simulation()
    made = service(replicas=replicas, task=task_spec(restart=CALM))
    update = replace(made.spec.update, **config)  # type: ignore[arg-type]
    sim.put_service(replace(made, spec=replace(made.spec, update=update)))
    sim.settle()
    return sim


def request(sim: Simulation, **spec: object) -> None:
    """Change the service as the API does for an update."""
    old = sim.services["web"]
    changed = replace(old.spec, **spec)  # type: ignore[arg-type]
    sim.put_service(requested(revised(old, changed, Belongings(changed.ports), now_ns=sim.now_ns)))


def force(sim: Simulation, number: int = 1) -> None:
    request(sim, task=task_spec(restart=CALM, force_update=number))


def versions(sim: Simulation) -> list[int]:
    return sorted(task.spec_version for task in sim.running())


def fail_new(sim: Simulation) -> None:
    """Steps until a task of the new specification is to run, which then fails."""
    for _ in range(5):
        sim.step()
        for task in sim.live():
            if task.spec_version == 2 and task.desired_state is TaskState.RUNNING:
                sim.report(task.id, TaskState.FAILED)
                return
        sim.nodes_work()
    raise AssertionError("no new task was started")


def state(sim: Simulation) -> RolloutState:
    return sim.rollouts["web"].state


@pytest.mark.parametrize("parallelism", [1, 2, 0])
def test_no_more_than_parallelism_are_down(parallelism: int) -> None:
    sim = settled(parallelism=parallelism)
    force(sim)
    allowed = parallelism or 4
    least = 4
    for _ in range(40):
        moved = bool(sim.step())
        stopping = sum(task.desired_state is TaskState.SHUTDOWN for task in sim.of()) - sum(
            task.spec_version == 2 for task in sim.running()
        )
        assert stopping <= allowed
        moved = sim.nodes_work() or moved
        least = min(least, len(sim.running()))
        if not moved:
            break
    assert versions(sim) == [2, 2, 2, 2]
    assert least == 4 - allowed


@pytest.mark.parametrize(
    ("monitor_ns", "delay_ns", "watched_ns"),
    [
        (5 * SECOND, 0, 5 * SECOND),
        (0, 0, 5 * SECOND),  # the default, as in Docker
        (0, 5 * SECOND, 6 * SECOND),
        (2 * SECOND, 3 * SECOND, 4 * SECOND),
        (4 * SECOND, 3 * SECOND, 4 * SECOND),
        (1, 0, 1),
    ],
)
def test_how_long_a_new_task_is_watched(monitor_ns: int, delay_ns: int, watched_ns: int) -> None:
    sim = settled(replicas=1, monitor_ns=monitor_ns, delay_ns=delay_ns)
    force(sim)
    sim.settle()
    sim.pass_time(watched_ns - 1)
    sim.settle()
    assert state(sim) is RolloutState.UPDATING
    sim.pass_time(1)
    sim.settle()
    assert state(sim) is RolloutState.COMPLETED


@pytest.mark.parametrize(("lasts_ns", "failed"), [(5 * SECOND - 1, True), (5 * SECOND, False)])
def test_a_monitor_of_zero_sees_a_task_that_fails_early(lasts_ns: int, failed: bool) -> None:
    sim = settled(replicas=2, monitor_ns=0)
    force(sim)
    sim.settle()
    sim.pass_time(lasts_ns)
    new = next(task for task in sim.running() if task.spec_version == 2)
    sim.report(new.id, TaskState.FAILED)
    sim.settle()
    assert (state(sim) is RolloutState.PAUSED) == failed


def test_it_is_completed_after_the_monitor_period() -> None:
    sim = settled()
    force(sim)
    sim.settle()
    assert state(sim) is RolloutState.UPDATING
    sim.pass_time(5 * SECOND - 1)
    sim.settle()
    assert state(sim) is RolloutState.UPDATING
    sim.pass_time(1)
    sim.settle()
    assert (state(sim), sim.rollouts["web"].message) == (RolloutState.COMPLETED, "update completed")


def test_the_delay_holds_a_lane() -> None:
    sim = settled(delay_ns=10 * SECOND)
    force(sim)
    sim.settle()
    assert versions(sim) == [1, 1, 1, 2]
    assert sim.wake_at_ns is not None
    assert sim.wake_at_ns - sim.now_ns <= 10 * SECOND
    sim.pass_time(10 * SECOND)
    sim.settle()
    assert versions(sim) == [1, 1, 2, 2]


def test_start_first_never_has_fewer_running() -> None:
    sim = settled(order=UpdateOrder.START_FIRST)
    force(sim)
    for _ in range(40):
        moved = bool(sim.step())
        assert 4 <= len(sim.running()) <= 5
        if not sim.nodes_work() and not moved:
            break
    assert versions(sim) == [2, 2, 2, 2]


def test_start_first_keeps_the_old_task_when_the_new_one_fails() -> None:
    sim = settled(order=UpdateOrder.START_FIRST)
    force(sim)
    fail_new(sim)
    sim.settle()
    assert state(sim) is RolloutState.PAUSED
    assert versions(sim) == [1, 1, 1, 1]


def test_a_failure_pauses_and_the_rest_is_left_alone() -> None:
    sim = settled()
    force(sim)
    fail_new(sim)
    sim.settle()
    assert state(sim) is RolloutState.PAUSED
    assert sim.rollouts["web"].message.startswith(
        "update paused due to failure or early termination of task task-"
    )
    assert versions(sim) == [1, 1, 1]


def test_another_request_goes_on_after_a_pause() -> None:
    sim = settled()
    force(sim)
    fail_new(sim)
    sim.settle()
    force(sim, 2)
    sim.settle()
    assert versions(sim) == [3, 3, 3, 3]


def test_failures_up_to_the_ratio_are_borne() -> None:
    sim = settled(max_failure_millionths=250_000)
    force(sim)
    fail_new(sim)
    sim.settle()
    assert state(sim) is RolloutState.UPDATING
    assert versions(sim) == [2, 2, 2]


def test_continue_goes_on_whatever_fails() -> None:
    sim = settled(failure_action=FailureAction.CONTINUE)
    force(sim)
    fail_new(sim)
    sim.settle()
    assert versions(sim) == [2, 2, 2]


def test_rollback_returns_to_the_last_template_and_keeps_what_still_has_it() -> None:
    sim = settled(failure_action=FailureAction.ROLLBACK)
    before = {task.slot: task.id for task in sim.running()}
    force(sim)
    fail_new(sim)
    sim.settle_over_time()
    assert state(sim) is RolloutState.ROLLBACK_COMPLETED
    assert versions(sim) == [1, 1, 1, 1]
    kept = {task.slot: task.id for task in sim.running()}
    assert sum(kept[slot] == before[slot] for slot in before) == 3
    assert sim.services["web"].spec.task.force_update == 0


def with_a_network(sim: Simulation) -> None:
    """The service is on a network, and an update takes it off again."""
    sim.networks["net"] = Network(
        "net", spec=NetworkSpec(name="net"), subnet="10.9.0.0/24", gateway="10.9.0.1"
    )
    task = replace(sim.services["web"].spec.task, networks=(NetworkUse("net"),))
    old = sim.services["web"]
    sim.put_service(replace(old, spec=replace(old.spec, task=task)))
    request(sim, task=task_spec(restart=CALM))
    assert sim.services["web"].virtual_addresses == ()


def test_rollback_joins_the_networks_of_the_last_template_again() -> None:
    sim = settled(failure_action=FailureAction.ROLLBACK)
    with_a_network(sim)
    fail_new(sim)
    sim.step()
    back = sim.services["web"]
    assert (back.rolling_back, back.virtual_addresses) == (True, (VirtualAddress("net", "10.9.0.254"),))


def test_without_the_networks_of_the_last_template_there_is_no_way_back() -> None:
    sim = settled(failure_action=FailureAction.ROLLBACK)
    with_a_network(sim)
    fail_new(sim)
    del sim.networks["net"]
    sim.step()
    assert state(sim) is RolloutState.PAUSED
    assert not sim.services["web"].rolling_back


def test_no_progress_for_the_deadline_pauses() -> None:
    sim = settled(progress_deadline_ns=60 * SECOND)
    request(sim, task=task_spec(restart=CALM, nano_cpus=100 * 10**9))
    sim.settle()
    assert len(sim.running()) == 3
    sim.pass_time(60 * SECOND)
    sim.settle()
    assert (state(sim), sim.rollouts["web"].timed_out) == (RolloutState.PAUSED, True)
    assert len(sim.running()) == 3


def test_paused_by_request() -> None:
    sim = settled(delay_ns=10 * SECOND)
    force(sim)
    sim.settle()
    sim.put_service(replace(sim.services["web"], update_paused=True))
    sim.pass_time(60 * SECOND)
    sim.settle()
    assert (state(sim), versions(sim)) == (RolloutState.PAUSED, [1, 1, 1, 2])
    sim.put_service(requested(sim.services["web"]))
    sim.settle_over_time()
    assert (state(sim), versions(sim)) == (RolloutState.COMPLETED, [2, 2, 2, 2])


def test_a_slot_that_dies_while_paused_keeps_its_specification() -> None:
    sim = settled(delay_ns=10 * SECOND)
    force(sim)
    sim.settle()
    sim.put_service(replace(sim.services["web"], update_paused=True))
    sim.settle()
    old = next(task for task in sim.running() if task.spec_version == 1)
    sim.report(old.id, TaskState.FAILED)
    sim.pass_time(3600 * SECOND)
    sim.step()
    assert [task.spec_version for task in sim.of() if task.slot == old.slot][-1] == 1


def test_an_update_while_updating_goes_to_the_newest() -> None:
    sim = settled(delay_ns=10 * SECOND)
    force(sim)
    sim.settle()
    force(sim, 2)
    sim.settle_over_time()
    assert versions(sim) == [3, 3, 3, 3]


def test_defaults_are_swarms() -> None:
    assert UpdateConfig() == UpdateConfig(
        parallelism=1,
        delay_ns=0,
        failure_action=FailureAction.PAUSE,
        monitor_ns=5 * SECOND,
        max_failure_millionths=0,
        order=UpdateOrder.STOP_FIRST,
        progress_deadline_ns=600 * SECOND,
    )


def test_a_place_that_a_former_rollout_has_begun_holds_a_lane() -> None:
    """The request that follows asks for the same template, so the place is not outdated; but it is down."""
    sim = settled(parallelism=1)
    force(sim)
    sim.step()
    (stopped,) = [task for task in sim.of() if task.desired_state is TaskState.SHUTDOWN]
    sim.put_service(requested(sim.services["web"]))
    sim.pass_time(SECOND)
    for _ in range(3):
        sim.step()
    assert [task.id for task in sim.of() if task.desired_state is TaskState.SHUTDOWN] == [stopped.id]
    sim.settle_over_time()
    assert versions(sim) == [2, 2, 2, 2]


def test_a_place_where_nothing_runs_comes_first() -> None:
    """The task that a former update has begun there is not up yet, and its template is not wanted any more."""
    sim = settled(parallelism=1)
    sim.report(sim.live()[2].id, TaskState.FAILED)
    force(sim)
    sim.step()
    assert {task.slot for task in sim.of() if task.spec_version == 2} == {3}
    force(sim, 2)
    sim.step()
    assert {task.slot for task in sim.live() if task.spec_version == 3} == {3}
    assert {task.slot for task in sim.running()} == {1, 2, 4}


def test_a_new_task_that_is_not_ready_does_not_count_as_running() -> None:
    sim = settled(replicas=2, order=UpdateOrder.START_FIRST)
    force(sim)
    sim.step()
    sim.step()
    (new,) = [task for task in sim.live() if task.spec_version == 2]
    sim.report(new.id, TaskState.RUNNING)
    running = sim.statuses[new.id]
    sim.statuses[new.id] = replace(running, not_ready=True)
    sim.step()
    assert versions(sim) == [1, 1, 2]
    sim.statuses[new.id] = running
    sim.step()
    assert [task.spec_version for task in sim.live() if task.slot == new.slot] == [2]
