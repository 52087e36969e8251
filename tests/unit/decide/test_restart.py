"""The restart policy: who gets another try, and when."""

from __future__ import annotations

import pytest
from minimanager.decide.wants import last_tries
from minimanager.domain.objects import SECOND, RestartCondition, RestartPolicy, TaskState
from support.simulation import Simulation, service, task_spec

DELAY_NS = 5 * SECOND


def started(policy: RestartPolicy, *, history: int = 5) -> Simulation:
    sim = Simulation(history=history)
    sim.put_service(service(replicas=1, task=task_spec(restart=policy)))
    sim.settle()
    return sim


def end(sim: Simulation, state: TaskState) -> None:
    (task,) = sim.running()
    sim.report(task.id, state)


def test_a_failed_task_is_replaced_after_the_delay() -> None:
    sim = started(RestartPolicy())
    end(sim, TaskState.FAILED)

    sim.settle()
    old, fresh = sim.of()
    assert old.desired_state is TaskState.SHUTDOWN
    assert (fresh.desired_state, fresh.state) == (TaskState.READY, TaskState.ASSIGNED)
    assert fresh.not_before_ns == sim.wake_at_ns == sim.now_ns + DELAY_NS
    assert sim.state(fresh) is TaskState.READY  # the node prepares it while the delay runs

    sim.pass_time(DELAY_NS)
    sim.settle()
    assert [task.id for task in sim.running()] == [fresh.id]


@pytest.mark.parametrize(
    ("condition", "state", "again"),
    [
        (RestartCondition.ANY, TaskState.COMPLETE, True),
        (RestartCondition.ANY, TaskState.REJECTED, True),
        (RestartCondition.ON_FAILURE, TaskState.COMPLETE, False),
        (RestartCondition.ON_FAILURE, TaskState.FAILED, True),
        (RestartCondition.NONE, TaskState.FAILED, False),
    ],
)
def test_the_condition_decides(condition: RestartCondition, state: TaskState, again: bool) -> None:
    sim = started(RestartPolicy(condition=condition))
    end(sim, state)
    sim.settle_over_time()
    assert len(sim.running()) == again
    assert len(sim.of()) == 1 + again
    last = last_tries(sim.snapshot(), sim.services["web"])
    assert last == ([] if again else sim.of())


def test_before_the_decision_and_between_two_tries_no_try_is_the_last() -> None:
    sim = started(RestartPolicy(max_attempts=1))
    end(sim, TaskState.FAILED)
    assert last_tries(sim.snapshot(), sim.services["web"]) == []  # the manager has not seen it yet
    sim.settle()
    assert last_tries(sim.snapshot(), sim.services["web"]) == []
    sim.settle_over_time()
    end(sim, TaskState.FAILED)
    sim.settle_over_time()
    assert [task.id for task in last_tries(sim.snapshot(), sim.services["web"])] == [sim.of()[-1].id]


def test_a_slot_that_has_ended_for_good_begins_again_with_a_new_specification() -> None:
    sim = started(RestartPolicy(condition=RestartCondition.NONE))
    end(sim, TaskState.COMPLETE)
    sim.settle()
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    assert [task.spec_version for task in sim.running()] == [2]


def test_a_slot_that_has_ended_for_good_counts_as_a_replica() -> None:
    sim = started(RestartPolicy(condition=RestartCondition.NONE))
    end(sim, TaskState.COMPLETE)
    sim.update(replicas=2)
    sim.settle()
    assert [task.slot for task in sim.running()] == [2]


def test_attempts_are_limited_per_slot_and_forgotten_with_the_specification() -> None:
    policy = RestartPolicy(max_attempts=2)
    sim = started(policy, history=1)
    for _ in range(2):
        end(sim, TaskState.FAILED)
        sim.settle_over_time()
    end(sim, TaskState.FAILED)
    sim.settle_over_time()
    assert sim.running() == []
    assert len(sim.of()) == 3
    sim.update(task=task_spec(restart=policy, force_update=1))
    sim.settle()
    end(sim, TaskState.FAILED)
    sim.settle_over_time()
    assert len(sim.running()) == 1


def test_attempts_outside_the_window_do_not_count() -> None:
    sim = started(RestartPolicy(max_attempts=1, window_ns=60 * SECOND))
    for _ in range(4):
        sim.pass_time(100 * SECOND)
        end(sim, TaskState.FAILED)
        sim.settle_over_time()
    assert len(sim.running()) == 1
    end(sim, TaskState.FAILED)
    sim.settle_over_time()
    assert sim.running() == []


def test_no_delay_means_at_once() -> None:
    sim = started(RestartPolicy(delay_ns=0))
    end(sim, TaskState.FAILED)
    sim.settle()
    (task,) = sim.running()
    assert task.not_before_ns == 0


def test_a_successor_is_younger_even_when_the_clock_went_back() -> None:
    sim = started(RestartPolicy(delay_ns=0))
    (old,) = sim.running()
    sim.pass_time(-3600 * SECOND)
    end(sim, TaskState.FAILED)
    sim.settle()
    (task,) = sim.running()
    assert task.meta.created_at_ns > old.meta.created_at_ns
