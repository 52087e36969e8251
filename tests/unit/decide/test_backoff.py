"""Crash loops: the delay doubles up to a cap, and a task that cannot be prepared is tried once per delay."""

from __future__ import annotations

from minimanager.decide.restart import BACKOFF_CAP_NS, backoff_ns
from minimanager.decide.scheduler.why import why
from minimanager.domain.objects import SECOND, RestartPolicy, TaskState
from support.simulation import Simulation, service, task_spec


def started(policy: RestartPolicy | None = None) -> Simulation:
    sim = Simulation()
    sim.put_service(service(replicas=1, task=task_spec(restart=policy)))
    sim.settle()
    return sim


def end(sim: Simulation, state: TaskState = TaskState.FAILED) -> int:
    """End the live task and settle; how long its successor waits, in seconds."""
    sim.report(sim.live()[0].id, state)
    sim.settle()
    return (sim.live()[0].not_before_ns - sim.now_ns) // SECOND


def wait(sim: Simulation) -> None:
    assert sim.wake_at_ns is not None
    sim.pass_time(sim.wake_at_ns - sim.now_ns)
    sim.settle()


def test_the_delay_doubles_up_to_the_cap() -> None:
    sim = started()
    delays = []
    for _ in range(9):
        delays.append(end(sim))
        wait(sim)
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_longer_delay_is_never_shortened_and_none_stays_none() -> None:
    assert backoff_ns(BACKOFF_CAP_NS * 2, 9) == BACKOFF_CAP_NS * 2
    assert backoff_ns(0, 9) == 0
    assert backoff_ns(5 * SECOND, 10**6) == BACKOFF_CAP_NS


def test_a_task_that_went_on_for_a_minute_ends_the_loop() -> None:
    sim = started()
    end(sim)
    wait(sim)
    assert end(sim) == 10
    wait(sim)
    sim.pass_time(60 * SECOND)
    assert end(sim) == 5


def test_a_new_specification_starts_afresh() -> None:
    sim = started()
    end(sim)
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    assert (sim.running()[0].failures, end(sim)) == (0, 5)


def test_what_cannot_be_prepared_is_tried_once_per_delay() -> None:
    sim = started()
    begun = sim.now_ns
    tries: list[int] = []
    while sim.now_ns < begun + 60 * SECOND:
        (task,) = sim.live()
        tries.append((sim.now_ns - begun) // SECOND)
        sim.report(task.id, TaskState.REJECTED)
        sim.settle()
        (held,) = sim.live()
        assert (held.node_id, held.state, held.message) == (
            "",
            TaskState.PENDING,
            "waiting for the restart delay",
        )
        assert "gets a node when its restart delay is over" in why(sim.snapshot(), held, sim.now_ns).summary
        wait(sim)
        assert sim.live()[0].node_id != ""
    assert tries == [0, 5, 15, 35]
