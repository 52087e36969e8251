"""The laws of a task's life, for every order of events and wishes."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent import task_machine as machine
from miniworker.agent.statuses import from_status, to_status
from miniworker.agent.task_machine import Event, Progress, Step
from miniworker.network.api import HostPort
from miniworker.runtime.api import Exit

STATES = [number for number in pb.TaskState.values() if number >= pb.TASK_STATE_ASSIGNED]
DESIRED = [
    pb.TASK_STATE_READY,
    pb.TASK_STATE_RUNNING,
    pb.TASK_STATE_COMPLETE,
    pb.TASK_STATE_SHUTDOWN,
    pb.TASK_STATE_REMOVE,
]

exits = st.builds(Exit, code=st.integers(0, 255), oom_killed=st.booleans(), finished_at_ns=st.just(0))
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(machine.Done, st.sampled_from(Step)),
    st.builds(machine.Created, st.text(max_size=5)),
    st.builds(machine.Started, st.integers(1, 99), st.booleans(), st.booleans()),
    st.builds(machine.Ready),
    st.builds(machine.NotReady, st.text(max_size=5)),
    st.builds(machine.Withdrawn, st.just(1), st.just(2), st.booleans()),
    st.builds(machine.Drained, st.just(3), st.integers(0, 9)),
    st.builds(machine.Healthy),
    st.builds(machine.Unhealthy, st.text(max_size=5)),
    st.builds(machine.Exited, exits),
    st.builds(machine.Stranded),
    st.builds(machine.Failed, st.sampled_from(Step), st.text(max_size=5)),
)
progresses = st.builds(
    Progress,
    state=st.sampled_from(STATES),
    pulled=st.booleans(),
    launched=st.booleans(),
    awaited=st.booleans(),
    not_ready=st.booleans(),
    unhealthy=st.booleans(),
    stranded=st.booleans(),
    cleaned=st.booleans(),
    removed=st.booleans(),
)


def success(step: Step) -> Event:
    """What a step that goes well brings."""
    match step:
        case Step.CREATE:
            return machine.Created("id")
        case Step.START:
            return machine.Started(7)
        case Step.WATCH:
            return machine.Exited(Exit(0, oom_killed=False, finished_at_ns=0))
        case Step.WITHDRAW:
            return machine.Withdrawn(1, 2)
        case Step.DRAIN:
            return machine.Drained(3)
        case _:
            return machine.Done(step)


def drive(desired: pb.TaskState.ValueType, progress: Progress, fail_at: Step | None = None) -> list[Progress]:
    """Follow a task until it waits or is done."""
    history = [progress]
    for _ in range(len(Step) + 1):
        step = machine.next_step(desired, history[-1], exposed=True)
        if step in (Step.WAIT, Step.DONE):
            return history
        event = machine.Failed(step, "no") if step is fail_at else success(step)
        history.append(machine.after(history[-1], event))
    raise AssertionError(f"does not come to rest: {history}")


@given(progresses, st.lists(events))
def test_a_state_never_shrinks(progress: Progress, happened: list[Event]) -> None:
    for event in happened:
        following = machine.after(progress, event)
        assert following.state >= progress.state
        progress = following


@given(progresses, st.lists(events))
def test_what_has_ended_stays_as_it_ended(progress: Progress, happened: list[Event]) -> None:
    for event in happened:
        following = machine.after(progress, event)
        if progress.ended:
            assert (following.state, following.error) == (progress.state, progress.error)
        progress = following


@given(st.sampled_from(DESIRED))
def test_every_wish_is_reached_when_all_goes_well(desired: pb.TaskState.ValueType) -> None:
    states = [progress.state for progress in drive(desired, Progress())]
    assert states == sorted(states)
    reached = {
        pb.TASK_STATE_READY: pb.TASK_STATE_READY,
        pb.TASK_STATE_RUNNING: pb.TASK_STATE_COMPLETE,
        pb.TASK_STATE_COMPLETE: pb.TASK_STATE_COMPLETE,
        pb.TASK_STATE_SHUTDOWN: pb.TASK_STATE_SHUTDOWN,
        pb.TASK_STATE_REMOVE: pb.TASK_STATE_SHUTDOWN,
    }
    assert states[-1] == reached[desired]


@given(
    st.sampled_from(DESIRED),
    st.sampled_from([Step.PULL, Step.CREATE, Step.START, Step.WATCH]),
)
def test_a_failing_step_ends_the_task_with_its_error(desired: pb.TaskState.ValueType, failing: Step) -> None:
    history = drive(desired, Progress(), failing)
    last = history[-1]
    if not last.error:
        return  # that wish never came to the step
    early = failing in (Step.PULL, Step.CREATE)
    assert last.state == (pb.TASK_STATE_REJECTED if early else pb.TASK_STATE_FAILED)
    assert last.error == "no"
    assert last.cleaned


@given(progresses)
def test_removal_leaves_nothing_whatever_the_state(progress: Progress) -> None:
    assert drive(pb.TASK_STATE_REMOVE, progress)[-1].removed


@given(progresses, st.sampled_from([pb.TASK_STATE_SHUTDOWN, pb.TASK_STATE_REMOVE]))
def test_a_task_to_be_stopped_is_never_started(progress: Progress, desired: pb.TaskState.ValueType) -> None:
    assert machine.next_step(desired, progress) not in (
        Step.ACCEPT,
        Step.PREPARE,
        Step.PULL,
        Step.CREATE,
        Step.LAUNCH,
        Step.START,
    )


def test_a_ready_task_waits_for_its_start() -> None:
    ready = drive(pb.TASK_STATE_READY, Progress())[-1]
    assert machine.next_step(pb.TASK_STATE_READY, ready) is Step.WAIT
    assert machine.next_step(pb.TASK_STATE_RUNNING, ready) is Step.LAUNCH


def test_messages_are_swarms() -> None:
    messages: list[str] = []
    for progress in drive(pb.TASK_STATE_RUNNING, Progress()):
        if progress.message and progress.message not in messages:
            messages.append(progress.message)
    assert messages == ["accepted", "preparing", "prepared", "starting", "started", "finished"]


def test_a_non_zero_exit_is_a_failure_in_swarms_words() -> None:
    running = Progress(state=pb.TASK_STATE_RUNNING, message="started", pid=7)
    failed = machine.after(running, machine.Exited(Exit(3, oom_killed=False, finished_at_ns=0)))
    assert (failed.state, failed.message, failed.error) == (
        pb.TASK_STATE_FAILED,
        "started",
        "task: non-zero exit (3)",
    )
    killed = machine.after(running, machine.Exited(Exit(137, oom_killed=True, finished_at_ns=0)))
    assert killed.error == "task: non-zero exit (137): out of memory"
    assert killed.oom_killed


@given(st.sampled_from(STATES), st.text(max_size=10), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]))
def test_progress_survives_being_stored(
    state: pb.TaskState.ValueType, message: str, port: int, protocol: str
) -> None:
    progress = Progress(
        state=state,
        message=message,
        error="e",
        pulled=state > pb.TASK_STATE_PREPARING,
        launched=state >= pb.TASK_STATE_STARTING,
        host_ports=(HostPort(protocol, port, 80), HostPort(protocol, port, 81, IPv4Address("10.77.0.21"))),
        container_id="c",
        pid=5,
        exit_code=3,
        oom_killed=True,
        unhealthy=True,
        not_ready=state > pb.TASK_STATE_STARTING,
        stop=machine.Stop(1, 2, 3, unacknowledged=True, open_connections=4),
    )
    status = to_status("t", progress, node_id="n", since_ns=9)
    assert from_status(pb.TaskStatus.FromString(status.SerializeToString())) == progress


def test_a_checked_task_runs_with_its_first_success_only() -> None:
    started = machine.after(
        Progress(state=pb.TASK_STATE_STARTING, launched=True), machine.Started(7, checked=True)
    )
    assert (started.state, started.pid) == (pb.TASK_STATE_STARTING, 7)
    assert machine.next_step(pb.TASK_STATE_RUNNING, started) is Step.WATCH
    running = machine.after(started, machine.Healthy())
    assert (running.state, running.message) == (pb.TASK_STATE_RUNNING, "started")
    assert machine.next_step(pb.TASK_STATE_RUNNING, running) is Step.WATCH


def test_an_unhealthy_task_is_stopped_and_has_failed_whatever_its_exit_code() -> None:
    running = Progress(state=pb.TASK_STATE_RUNNING, launched=True, pid=7)
    unhealthy = machine.after(running, machine.Unhealthy("no database\nreally"))
    assert unhealthy.message == "health check failed: no database"
    assert unhealthy.state == pb.TASK_STATE_RUNNING
    assert machine.next_step(pb.TASK_STATE_RUNNING, unhealthy) is Step.STOP
    for event, error in (
        (machine.Exited(Exit(0, oom_killed=False, finished_at_ns=0)), "task: unhealthy container"),
        (
            machine.Exited(Exit(143, oom_killed=False, finished_at_ns=0)),
            "task: non-zero exit (143): unhealthy container",
        ),
        (machine.Done(Step.STOP), "task: unhealthy container"),
    ):
        ended = machine.after(unhealthy, event)
        assert (ended.state, ended.error, ended.pid) == (pb.TASK_STATE_FAILED, error, 0)


def test_a_task_with_both_checks_runs_once_both_have_succeeded() -> None:
    starting = Progress(state=pb.TASK_STATE_STARTING, launched=True)
    for first, second in ((machine.Healthy(), machine.Ready()), (machine.Ready(), machine.Healthy())):
        progress = machine.after(starting, machine.Started(7, checked=True, readied=True))
        progress = machine.after(progress, first)
        assert progress.state == pb.TASK_STATE_STARTING
        assert machine.next_step(pb.TASK_STATE_RUNNING, progress) is Step.WATCH
        assert machine.after(progress, second).state == pb.TASK_STATE_RUNNING


def test_readiness_alone_is_watched_from_the_start() -> None:
    starting = machine.after(
        Progress(state=pb.TASK_STATE_STARTING, launched=True), machine.Started(7, readied=True)
    )
    assert machine.next_step(pb.TASK_STATE_RUNNING, starting) is Step.WATCH
    assert machine.after(starting, machine.Ready()).state == pb.TASK_STATE_RUNNING


def test_a_task_that_is_not_ready_any_more_goes_on() -> None:
    running = Progress(state=pb.TASK_STATE_RUNNING, launched=True, message="started")
    away = machine.after(running, machine.NotReady("HTTP/1.1 503"))
    assert (away.state, away.not_ready, away.message) == (
        pb.TASK_STATE_RUNNING,
        True,
        "readiness check failed: HTTP/1.1 503",
    )
    assert machine.next_step(pb.TASK_STATE_RUNNING, away) is Step.WATCH
    assert machine.after(away, machine.Ready()) == running


def test_a_task_with_traffic_is_withdrawn_and_drained_before_it_is_stopped() -> None:
    running = Progress(state=pb.TASK_STATE_RUNNING, launched=True)
    steps = [
        machine.next_step(pb.TASK_STATE_SHUTDOWN, progress, exposed=True)
        for progress in drive(pb.TASK_STATE_SHUTDOWN, running)
    ]
    assert steps == [Step.WITHDRAW, Step.DRAIN, Step.STOP, Step.CLEAN, Step.WAIT]
    sick = machine.after(running, machine.Unhealthy())
    assert machine.next_step(pb.TASK_STATE_RUNNING, sick, exposed=True) is Step.WITHDRAW


def test_a_task_without_traffic_is_stopped_at_once() -> None:
    running = Progress(state=pb.TASK_STATE_RUNNING, launched=True)
    assert machine.next_step(pb.TASK_STATE_SHUTDOWN, running) is Step.STOP
    starting = Progress(state=pb.TASK_STATE_STARTING, launched=True)
    assert machine.next_step(pb.TASK_STATE_SHUTDOWN, starting, exposed=True) is Step.STOP
