"""What a task does next: a pure function of what is wanted and how far it has come.

    ASSIGNED -> ACCEPTED -> PREPARING (pull, create) -> READY -> STARTING -> RUNNING -> COMPLETE | FAILED
                                 |                                   \\-> FAILED
                                 \\-> REJECTED                    SHUTDOWN from anywhere, when it is wanted

A task with a health or a readiness check is watched while it is STARTING, and becomes RUNNING once it is healthy and
ready. One that is unhealthy is stopped, and then FAILED. One that is not ready any more goes on, without new traffic.

A task that runs may be in other nodes' tables. It is stopped in steps: WITHDRAW until no node leads anything new to it,
DRAIN until its connections have ended, then STOP. The first two have an end of their own, so that nothing waits for
ever for a manager that is gone or a client that stays.

`next_step` names one step; whoever performs it brings the result back as an event, and `after` gives the new progress.
A state only ever grows, and a task that has ended stays ended: the manager puts another task in its slot. Messages and
errors are worded as Swarm's agent does (swarmkit `agent/exec/controller.go`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from miniproto.v1 import objects_pb2 as pb

from miniworker.network.api import HostPort
from miniworker.runtime.api import Exit

State: TypeAlias = pb.TaskState.ValueType


class Step(Enum):
    ACCEPT = "accept"
    PREPARE = "prepare"
    PULL = "pull"
    """Get the image and wait for what the hooks need: it may take for ever, and can be broken off."""
    CREATE = "create"
    LAUNCH = "launch"
    START = "start"
    CONNECT = "connect"
    """Give the container the networks that its task has by now; it may wait for them, and can be broken off."""
    WATCH = "watch"
    WITHDRAW = "withdraw"
    DRAIN = "drain"
    STOP = "stop"
    CLEAN = "clean"
    """Give back what the task held besides its container, which stays for its logs."""
    REMOVE = "remove"
    WAIT = "wait"
    """Nothing to do until the desired state changes."""
    DONE = "done"
    """Nothing is left of the task on this node."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How far a task that may have had traffic has been stopped; times are nanoseconds, 0: not yet."""

    told_at_ns: int = 0
    withdrawn_at_ns: int = 0
    drained_at_ns: int = 0
    unacknowledged: bool = False
    """Not every node had taken it out of its tables when the wait was over."""
    open_connections: int = 0
    """Those that were left when the drain timeout was over."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task has come."""

    state: State = pb.TASK_STATE_ASSIGNED
    message: str = ""
    error: str = ""
    pulled: bool = False
    launched: bool = False
    """The container may have run: it is stopped with its signal, and stays for its logs."""
    host_ports: tuple[HostPort, ...] = ()
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    awaited: bool = False
    """It has been started, and has to become healthy."""
    not_ready: bool = False
    """It is to get no traffic: its readiness check has not succeeded yet, or fails again."""
    unhealthy: bool = False
    """It has to be stopped, and has failed then."""
    stranded: bool = False
    """Likewise: its node has had no manager for too long."""
    stop: Stop = Stop()
    cleaned: bool = False
    removed: bool = False

    @property
    def ended(self) -> bool:
        return self.state > pb.TASK_STATE_RUNNING


@dataclass(frozen=True, slots=True)
class Done:
    """A step without a result of its own succeeded."""

    step: Step


@dataclass(frozen=True, slots=True)
class Created:
    container_id: str
    host_ports: tuple[HostPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    pid: int
    checked: bool = False
    """It has a health check: it runs when that has succeeded."""
    readied: bool = False
    """It has a readiness check: likewise."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """The health check has succeeded for the first time."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """The health check has failed for good."""

    output: str = ""
    """Of the last probe."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The readiness check has succeeded."""


@dataclass(frozen=True, slots=True)
class NotReady:
    """The readiness check has failed."""

    output: str = ""
    """Of the last probe."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The wait for the other nodes' tables is over."""

    told_at_ns: int
    at_ns: int
    unacknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Drained:
    """The wait for the open connections is over."""

    at_ns: int
    open_connections: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    """The container ended by itself."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Failed:
    """A step cannot succeed, however often it is tried."""

    step: Step
    error: str


@dataclass(frozen=True, slots=True)
class Stranded:
    """The node has had no manager for as long as the task may run without one."""


Event = (
    Done
    | Created
    | Started
    | Healthy
    | Unhealthy
    | Ready
    | NotReady
    | Withdrawn
    | Drained
    | Exited
    | Failed
    | Stranded
)

UNHEALTHY = "unhealthy container"
"""Swarm's words (moby `daemon/cluster/executor/container/errors.go`)."""


STRANDED = "the node had no manager for longer than --on-disconnect allows"


def next_step(desired: State, progress: Progress, *, exposed: bool = False, connected: bool = True) -> Step:
    """The one thing to do now for a task that is wanted in `desired`.

    `exposed`: others may send it traffic; `connected`: its container has the networks that it should.
    """
    if progress.removed:
        return Step.DONE
    if progress.ended:
        if not progress.cleaned:
            return Step.CLEAN
        return Step.REMOVE if desired >= pb.TASK_STATE_REMOVE else Step.WAIT
    if progress.stranded:
        return Step.STOP  # nobody answers that it is out of the tables
    if desired >= pb.TASK_STATE_SHUTDOWN or progress.unhealthy:
        return _stop(progress) if exposed and progress.state == pb.TASK_STATE_RUNNING else Step.STOP
    step = _forward(desired, progress)
    return step if connected or step is not Step.WATCH else Step.CONNECT


def _stop(progress: Progress) -> Step:
    if not progress.stop.withdrawn_at_ns:
        return Step.WITHDRAW
    return Step.STOP if progress.stop.drained_at_ns else Step.DRAIN


def _forward(desired: State, progress: Progress) -> Step:
    match progress.state:
        case pb.TASK_STATE_ACCEPTED:
            return Step.PREPARE
        case pb.TASK_STATE_PREPARING:
            return Step.CREATE if progress.pulled else Step.PULL
        case pb.TASK_STATE_READY:
            return Step.LAUNCH if desired > pb.TASK_STATE_READY else Step.WAIT
        case pb.TASK_STATE_STARTING:
            return Step.WATCH if progress.awaited or progress.not_ready else Step.START
        case pb.TASK_STATE_RUNNING:
            return Step.WATCH
        case _:
            return Step.ACCEPT


def after(progress: Progress, event: Event) -> Progress:
    """The progress once `event` has happened. Its state is never lower than before."""
    following = _after_end(progress, event) if progress.ended else _after(progress, event)
    return following if following.state >= progress.state else progress


def _after(progress: Progress, event: Event) -> Progress:
    match event:
        case Done(step):
            return _after_step(progress, step)
        case Created(container_id, host_ports):
            return replace(
                progress,
                state=pb.TASK_STATE_READY,
                message="prepared",
                container_id=container_id,
                host_ports=host_ports,
            )
        case Started(pid, checked, readied):
            return _up(replace(progress, pid=pid, awaited=checked, not_ready=readied))
        case Healthy():
            return _up(replace(progress, awaited=False))
        case Ready():
            return _up(replace(progress, not_ready=False))
        case NotReady(output):
            return replace(progress, not_ready=True, message=_check_message("readiness", output))
        case Withdrawn(told_at_ns, at_ns, unacknowledged):
            stop = Stop(told_at_ns, at_ns, unacknowledged=unacknowledged)
            return replace(progress, stop=stop)
        case Drained(at_ns, left):
            return replace(progress, stop=replace(progress.stop, drained_at_ns=at_ns, open_connections=left))
        case Unhealthy(output):
            return replace(progress, unhealthy=True, message=_check_message("health", output))
        case Stranded():
            return replace(progress, stranded=True)
        case Exited(exit_):
            return _after_exit(progress, exit_)
        case Failed(_, error):
            early = progress.state < pb.TASK_STATE_STARTING
            state = pb.TASK_STATE_REJECTED if early else pb.TASK_STATE_FAILED
            return replace(progress, state=state, error=error, pid=0)


def _after_step(progress: Progress, step: Step) -> Progress:
    match step:
        case Step.ACCEPT:
            return replace(progress, state=pb.TASK_STATE_ACCEPTED, message="accepted")
        case Step.PREPARE:
            return replace(progress, state=pb.TASK_STATE_PREPARING, message="preparing")
        case Step.PULL:
            return replace(progress, pulled=True)
        case Step.LAUNCH:
            return replace(progress, state=pb.TASK_STATE_STARTING, message="starting", launched=True)
        case Step.STOP if progress.stranded:
            return replace(progress, state=pb.TASK_STATE_FAILED, error=f"task: {STRANDED}", pid=0)
        case Step.STOP if progress.unhealthy:
            return replace(progress, state=pb.TASK_STATE_FAILED, error=f"task: {UNHEALTHY}", pid=0)
        case Step.STOP:
            return replace(progress, state=pb.TASK_STATE_SHUTDOWN, message="shutdown", pid=0)
        case _:
            return progress


def _up(progress: Progress) -> Progress:
    """RUNNING, unless a check has to succeed first."""
    if progress.awaited or progress.not_ready:
        return progress
    return replace(progress, state=pb.TASK_STATE_RUNNING, message="started")


def _check_message(kind: str, output: str) -> str:
    line = output.strip().partition("\n")[0]
    return f"{kind} check failed: {line}" if line else f"{kind} check failed"


def _after_exit(progress: Progress, exit_: Exit) -> Progress:
    ended = replace(progress, pid=0, exit_code=exit_.code, oom_killed=exit_.oom_killed)
    if progress.unhealthy:
        code = f"non-zero exit ({exit_.code}): " if exit_.code else ""
        return replace(ended, state=pb.TASK_STATE_FAILED, error=f"task: {code}{UNHEALTHY}")
    if exit_.code == 0:
        return replace(ended, state=pb.TASK_STATE_COMPLETE, message="finished")
    cause = ": out of memory" if exit_.oom_killed else ""
    return replace(ended, state=pb.TASK_STATE_FAILED, error=f"task: non-zero exit ({exit_.code}){cause}")


def _after_end(progress: Progress, event: Event) -> Progress:
    """An ended task can only be tidied away."""
    match event:
        case Done(Step.CLEAN):
            return replace(progress, cleaned=True)
        case Done(Step.REMOVE):
            return replace(progress, removed=True)
        case _:
            return progress
