"""What becomes of a task after it has run: history, nodes that fall silent and return, twins after a partition.

The numbers are those of Swarm; beside each is where it has them from.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.node_health import ORPHAN_AFTER_NS
from minimanager.decide.restart import GATE_TIMEOUT_NS
from minimanager.decide.scheduler.demand import FAILURE_WINDOW_NS, MAX_FAILURES
from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import (
    HOUR,
    SECOND,
    Availability,
    ClusterSpec,
    FailureAction,
    NodeState,
    Placement,
    RestartCondition,
    RestartPolicy,
    RolloutState,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskState,
    UpdateConfig,
    UpdateOrder,
)
from minimanager.domain.revisions import requested, revised
from minimanager.rpc.dispatcher.presence import MISSED_HEARTBEATS
from support.simulation import Simulation, ingress_port, service, task_spec

STATES = {
    "NEW": 0,
    "PENDING": 64,
    "ASSIGNED": 192,
    "ACCEPTED": 256,
    "PREPARING": 320,
    "READY": 384,
    "STARTING": 448,
    "RUNNING": 512,
    "COMPLETE": 576,
    "SHUTDOWN": 640,
    "FAILED": 704,
    "REJECTED": 768,
    "REMOVE": 800,
    "ORPHANED": 832,
}
"""swarmkit `api/types.proto`."""


def test_states_have_the_numbers_of_swarm() -> None:
    assert {state.name: state.value for state in TaskState} == STATES
    assert [state.name for state in TaskState if state.finished] == list(STATES)[8:]


@pytest.mark.parametrize(
    ("ours", "swarm"),
    [
        pytest.param(ClusterSpec().task_history_limit, 5, id="history limit: manager/manager.go"),
        pytest.param(MISSED_HEARTBEATS, 3, id="missed heartbeats: manager/dispatcher"),
        pytest.param(ORPHAN_AFTER_NS, 24 * HOUR, id="orphans: manager/dispatcher/dispatcher.go"),
        pytest.param(
            RestartPolicy().condition, RestartCondition.ANY, id="condition: api/defaults/service.go"
        ),
        pytest.param(RestartPolicy().delay_ns, 5 * SECOND, id="restart delay: api/defaults/service.go"),
        pytest.param(RestartPolicy().max_attempts, 0, id="max attempts: api/defaults/service.go"),
        pytest.param(RestartPolicy().window_ns, 0, id="window: api/defaults/service.go"),
        pytest.param(GATE_TIMEOUT_NS, 60 * SECOND, id="old task gate: orchestrator/restart/restart.go"),
        pytest.param(UpdateConfig().parallelism, 1, id="parallelism: api/defaults/service.go"),
        pytest.param(UpdateConfig().delay_ns, 0, id="update delay: api/defaults/service.go"),
        pytest.param(
            UpdateConfig().failure_action, FailureAction.PAUSE, id="action: api/defaults/service.go"
        ),
        pytest.param(UpdateConfig().monitor_ns, 5 * SECOND, id="monitor: api/defaults/service.go"),
        pytest.param(UpdateConfig().max_failure_millionths, 0, id="ratio: api/defaults/service.go"),
        pytest.param(UpdateConfig().order, UpdateOrder.STOP_FIRST, id="order: api/defaults/service.go"),
        pytest.param(
            ServiceSpec().rollback, UpdateConfig(), id="rollback as update: api/defaults/service.go"
        ),
        pytest.param(ServiceSpec().mode, ServiceMode.REPLICATED, id="mode: service_create.md"),
        pytest.param(ServiceSpec().replicas, 1, id="replicas: service_create.md"),
        pytest.param(ServiceSpec().max_concurrent, 0, id="max concurrent is the replicas: service_create.md"),
        pytest.param(Placement(), Placement((), (), 0), id="no rule of placement: service_create.md"),
        pytest.param(MAX_FAILURES, 5, id="failures that push a node last: scheduler.go"),
        pytest.param(FAILURE_WINDOW_NS, 300 * SECOND, id="within: scheduler.go"),
        pytest.param(
            ["updating", "paused", "completed", "rollback_started", "rollback_paused", "rollback_completed"],
            [state.name.lower() for state in RolloutState],
            id="update states: api/types/swarm/service.go",
        ),
    ],
)
def test_defaults_are_those_of_swarm(ours: object, swarm: object) -> None:
    assert ours == swarm


def running(nodes: int = 2, **wanted: object) -> Simulation:
    sim = Simulation(nodes)
    sim.put_service(service(**wanted))  # type: ignore[arg-type]
    sim.settle()
    return sim


def crash(sim: Simulation, times: int) -> None:
    for _ in range(times):
        for task in sim.running():
            sim.report(task.id, TaskState.FAILED)
        sim.settle_over_time()


# --- history: orchestrator/taskreaper/task_reaper.go ---


def test_a_global_service_keeps_its_history_per_node() -> None:
    sim = running(mode=ServiceMode.GLOBAL, replicas=0)
    crash(sim, 7)
    assert [sum(task.place == node for task in sim.of()) for node in ("node-1", "node-2")] == [5, 5]


@pytest.mark.parametrize(("attempts", "kept"), [(1, 2), (3, 4), (7, 8)])
def test_limited_attempts_keep_one_more_than_are_allowed(attempts: int, kept: int) -> None:
    policy = RestartPolicy(max_attempts=attempts)
    sim = running(replicas=1, task=task_spec(restart=policy))
    crash(sim, attempts + 3)
    assert len(sim.of()) == kept
    assert not sim.running()


# --- restart: orchestrator/restart/restart.go ---


def test_attempts_of_a_global_service_are_counted_per_node() -> None:
    policy = RestartPolicy(max_attempts=1)
    sim = running(mode=ServiceMode.GLOBAL, replicas=0, task=task_spec(restart=policy))
    for _ in range(3):
        sim.report(next(task for task in sim.live() if task.place == "node-1").id, TaskState.FAILED)
        sim.settle_over_time()
        if len(sim.live()) == 1:
            break
    assert [task.place for task in sim.running()] == ["node-2"]


@pytest.mark.parametrize("condition", [RestartCondition.ANY, RestartCondition.ON_FAILURE])
def test_a_job_that_is_done_is_not_run_again_whatever_its_condition(condition: RestartCondition) -> None:
    policy = RestartPolicy(condition=condition)
    sim = running(mode=ServiceMode.REPLICATED_JOB, replicas=1, task=task_spec(restart=policy))
    (task,) = sim.running()
    sim.report(task.id, TaskState.COMPLETE)
    sim.settle_over_time()
    assert [sim.state(task) for task in sim.of()] == [TaskState.COMPLETE]


def test_a_drained_node_is_left_without_the_restart_delay() -> None:
    sim = running(replicas=2, task=task_spec(restart=RestartPolicy(delay_ns=HOUR)))
    sim.set_availability("node-2", Availability.DRAIN)
    sim.settle()
    assert set(sim.where().values()) == {"node-1"}
    assert len(sim.running()) == 2


# --- failed updates: orchestrator/update/updater.go ---


@pytest.mark.parametrize(("failures", "state"), [(1, RolloutState.UPDATING), (2, RolloutState.PAUSED)])
def test_only_more_than_the_ratio_is_a_failed_update(failures: int, state: RolloutState) -> None:
    """A quarter of the four places that were to be replaced may fail."""
    policy = RestartPolicy(delay_ns=HOUR)
    sim = running(replicas=4, task=task_spec(restart=policy))
    old = sim.services["web"]
    update = UpdateConfig(parallelism=0, max_failure_millionths=250_000)
    spec = replace(old.spec, task=task_spec(restart=policy, force_update=1), update=update)
    sim.put_service(requested(revised(old, spec, Belongings(old.ports), now_ns=sim.now_ns)))
    sim.settle()
    for task in sim.running()[:failures]:
        sim.report(task.id, TaskState.FAILED)
    sim.settle()
    assert sim.rollouts["web"].state is state


# --- silent nodes: manager/dispatcher/dispatcher.go ---


def silent() -> tuple[Simulation, Task]:
    """Two nodes, of which node-2 is down, and its task."""
    sim = running(replicas=2, ports=(ingress_port(),))
    lost = next(task for task in sim.running() if task.node_id == "node-2")
    sim.set_node("node-2", NodeState.DOWN)
    sim.settle_over_time()
    return sim, lost


def test_tasks_are_given_up_after_a_day_and_not_before() -> None:
    sim, lost = silent()
    down_since_ns = sim.node_statuses["node-2"].since_ns
    sim.now_ns = down_since_ns + 24 * HOUR - 1
    sim.settle()
    assert sim.state(sim.tasks[lost.id]) is TaskState.RUNNING
    assert sim.tasks[lost.id].attachments, "it may still run there, so it keeps its address"
    assert sim.wake_at_ns == down_since_ns + 24 * HOUR
    sim.pass_time(1)
    sim.settle()
    given_up = sim.tasks[lost.id]
    assert (sim.state(given_up), given_up.attachments) == (TaskState.ORPHANED, ())


def test_a_node_that_is_back_within_the_day_ends_its_tasks_itself() -> None:
    sim, lost = silent()
    sim.pass_time(23 * HOUR)
    sim.set_node("node-2", NodeState.READY)
    sim.settle()
    assert sim.state(sim.tasks[lost.id]) is TaskState.SHUTDOWN
    assert len(sim.running()) == 2
    sim.pass_time(2 * HOUR)
    sim.settle()
    assert all(sim.state(task) is not TaskState.ORPHANED for task in sim.of())


def test_an_orphan_stays_one_whatever_its_node_says_later() -> None:
    sim, lost = silent()
    sim.pass_time(24 * HOUR)
    sim.settle()
    sim.set_node("node-2", NodeState.READY)
    sim.report(lost.id, TaskState.SHUTDOWN)
    sim.settle()
    assert sim.state(sim.tasks[lost.id]) is TaskState.ORPHANED
    assert len(sim.running()) == 2


# --- removed nodes: manager/controlapi/node.go ---


def test_tasks_of_a_removed_node_are_orphans_at_once_and_free_what_they_had() -> None:
    sim = running(replicas=2, ports=(ingress_port(),))
    lost = next(task for task in sim.running() if task.node_id == "node-2")
    sim.remove_node("node-2")
    sim.step()
    assert sim.state(sim.tasks[lost.id]) is TaskState.ORPHANED
    sim.settle_over_time()
    assert sim.tasks[lost.id].attachments == ()
    assert sorted(sim.where().values()) == ["node-1", "node-1"]


def test_a_global_service_forgets_a_removed_node() -> None:
    sim = running(mode=ServiceMode.GLOBAL, replicas=0)
    sim.remove_node("node-2")
    sim.settle_over_time()
    assert [task.place for task in sim.of()] == ["node-1"]


# --- twins ---


@pytest.mark.parametrize("mode", [ServiceMode.REPLICATED, ServiceMode.GLOBAL])
@pytest.mark.parametrize(
    ("states", "stays"),
    [
        ((TaskState.RUNNING, TaskState.RUNNING, TaskState.RUNNING), 0),
        ((TaskState.PREPARING, TaskState.RUNNING, TaskState.READY), 1),
        ((TaskState.PREPARING, TaskState.PREPARING, TaskState.STARTING), 2),
        ((TaskState.FAILED, TaskState.RUNNING, TaskState.RUNNING), 1),
    ],
)
def test_of_several_in_a_place_exactly_one_stays(
    mode: ServiceMode, states: tuple[TaskState, ...], stays: int
) -> None:
    """The one that came furthest; the oldest of those."""
    sim = Simulation(nodes=1)
    sim.put_service(service(mode=mode, replicas=0 if mode.is_global else 1))
    sim.step()
    (first,) = sim.of()
    for number in (1, 2):
        meta = replace(first.meta, created_at_ns=first.meta.created_at_ns + number)
        sim.tasks[f"twin-{number}"] = replace(first, id=f"twin-{number}", meta=meta)
    twins = [first.id, "twin-1", "twin-2"]
    for task_id, state in zip(twins, states, strict=True):
        sim.report(task_id, state)
    sim.step()
    assert [task.id for task in sim.live()] == [twins[stays]]
    sim.settle()
    assert [task.id for task in sim.running()] == [twins[stays]]
    assert len(sim.of()) <= 3
