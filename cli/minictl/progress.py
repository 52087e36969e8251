"""What there is to say while a service converges. Pure: views of the service and the time in, lines out.

A line has a key ("overall progress", "3/5", "verify"); saying a key again replaces the line on a terminal. Lines
that would not change are not said again. The service is converged when every slot's task runs and has gone on running
for the monitor period. One that ended well, and is not to be started again, counts as if it ran; one that failed so
is the end of waiting.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from miniproto.v1.control_pb2 import ServiceProgress, TaskView

GLOBAL = 1
"""The mode's number in the API."""

SHORT_ID = 12
"""Characters of a node's id before its bar."""

SECOND = 1_000_000_000
"""Nanoseconds."""

MONITOR_NS = 5 * SECOND
"""How long all tasks must have been running (Docker's default update monitor)."""

MAX_BARS = 20
"""With more replicas only the overall line is shown (docker/cli)."""

MAX_ERROR = 75
"""Characters of an error, so that the line fits a narrow terminal (docker/cli)."""

_ROLLING_BACK = (3, 4)
"""States of a rollout that goes back, by their numbers in the API: started, and paused."""

STEPS = 9
"""A running task is at the ninth step; Docker counts its `allocated`, which is never seen."""

RUNNING, COMPLETE, SHUTDOWN = 512, 576, 640

_FAILED, _REJECTED = 704, 768

_ANY = 0
"""The restart condition's number in the API."""

_STEP_OF_STATE = {0: 1, 64: 3, 192: 4, 256: 5, 320: 6, 384: 7, 448: 8, RUNNING: 9}
NAMES = {
    0: "new",
    64: "pending",
    192: "assigned",
    256: "accepted",
    320: "preparing",
    384: "ready",
    448: "starting",
    RUNNING: "running",
}
_NAME_WIDTH = max(map(len, NAMES.values()))


class Line:
    """`step` is how far the bar is, of STEPS; 0: no bar."""

    __slots__ = ("key", "step", "text")

    def __init__(self, key: str, text: str, step: int = 0) -> None:
        self.key = key
        self.text = text
        self.step = step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and (self.key, self.text, self.step) == (
            other.key,
            other.text,
            other.step,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Line({self.key!r}, {self.text!r}, {self.step})"


class Convergence:
    """Follows one service. `converged` is final; `wake_ns` is when `tick` has something to say, or None.

    `failure` says why a service cannot converge any more; an update that goes on may still change that.
    """

    def __init__(self, *, monitor_ns: int = MONITOR_NS) -> None:
        self.converged = False
        self.failure = ""
        self.wake_ns: int | None = None
        self._monitor_ns = monitor_ns
        self._said: dict[str, Line] = {}
        self._bars: dict[int | str, int] = {}
        self._since_ns: int | None = None
        self._rolling_back = False

    def update(self, view: ServiceProgress, now_ns: int) -> list[Line]:
        """The service or one of its tasks changed."""
        is_global = view.service.service.spec.mode == GLOBAL
        replicas = view.service.desired if is_global else view.service.service.spec.replicas
        lines = self._rollback_lines(view)
        verb = "rolling back update: " if self._rolling_back else ""
        if "overall progress" not in self._said:
            lines.append(Line("overall progress", f"{verb}0 out of {replicas} tasks"))
            if replicas <= MAX_BARS and not is_global:
                lines += [Line(f"{bar}/{replicas}", " ") for bar in range(1, replicas + 1)]
        tasks = by_place(view)
        self.failure = next((_given_up_text(task) for task in tasks.values() if is_given_up(task)), "")
        running = sum(1 for task in tasks.values() if serves(view, task))
        if self._since_ns is None or running != replicas:
            lines += self._bar_lines(view, tasks, replicas)
            lines.append(Line("overall progress", f"{verb}{running} out of {replicas} tasks"))
        if running != replicas:
            if self._since_ns is not None:
                lines.append(Line("verify", "Detected task failure"))
            self._since_ns = self.wake_ns = None
        elif self._since_ns is None:
            self._since_ns = now_ns
        return fresh_lines(self._said, lines) + self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Line]:
        """Time passed."""
        if self._since_ns is None or self.converged:
            return []
        left = self._since_ns + self._monitor_ns - now_ns
        if left <= 0:
            self.converged = True
            self.wake_ns = None
            return fresh_lines(self._said, [Line("verify", "Service converged")])
        seconds = -(-left // SECOND)
        self.wake_ns = now_ns + left - (seconds - 1) * SECOND
        return fresh_lines(
            self._said, [Line("verify", f"Waiting {seconds} seconds to verify that tasks are stable...")]
        )

    def _rollback_lines(self, view: ServiceProgress) -> list[Line]:
        """Why the service goes back, and that it has gone: of a rollback that is under way when it is first seen."""
        service, rollout = view.service.service, view.service.rollout
        known = view.service.HasField("rollout") and rollout.update_number == service.update_number
        if service.rolling_back and not (known and rollout.state not in _ROLLING_BACK):
            self._rolling_back = True
        return [Line("rollback", rollout.message)] if known and self._rolling_back else []

    def _bar_lines(
        self, view: ServiceProgress, tasks: dict[int | str, TaskView], replicas: int
    ) -> list[Line]:
        """One per task; a task of a global service goes by its node."""
        lines = []
        for place, task in tasks.items():
            bar = self._bars.setdefault(place, len(self._bars) + 1)
            if bar > replicas or replicas > MAX_BARS:
                continue
            key = task.task.bound_node_id[:SHORT_ID] or f"{bar}/{replicas}"
            if has_completed(view, task):
                line: Line | None = Line(key, f"{'complete':<{_NAME_WIDTH}}", STEPS)
            else:
                line = bar_line(key, task, _STEP_OF_STATE)
            if line is not None:
                lines.append(line)
        return lines


def bar_line(key: str, task: TaskView, steps: Mapping[int, int]) -> Line | None:
    """The line of one task: its error, else how far it is; None when it only has to go."""
    if task.error:
        return Line(key, _short(task.error))
    if task.task.desired_state >= SHUTDOWN or task.state not in steps:
        return None
    return Line(key, f"{NAMES.get(task.state, 'complete'):<{_NAME_WIDTH}}", steps[task.state])


def fresh_lines(said: dict[str, Line], lines: Iterable[Line]) -> list[Line]:
    """The lines that differ from what was said last, which is remembered in `said`."""
    fresh = []
    for line in lines:
        if said.get(line.key) != line:
            said[line.key] = line
            fresh.append(line)
    return fresh


def by_place(view: ServiceProgress) -> dict[int | str, TaskView]:
    """The task of each slot, or node, that follows the service's present template, in the order of these.

    Of several in one place it is the one that is wanted most.
    """
    version = view.service.service.spec_version
    found: dict[tuple[int, str], TaskView] = {}
    for task in view.tasks:
        if task.task.spec_version != version:
            continue
        place = task.task.slot, task.task.bound_node_id
        other = found.get(place)
        if other is None or _rank(task) < _rank(other):
            found[place] = task
    return {place[1] or place[0]: found[place] for place in sorted(found)}


def _rank(task: TaskView) -> tuple[int, int]:
    return task.task.desired_state, task.state


def runs(task: TaskView) -> bool:
    """Whether the task is wanted, runs, and may get traffic."""
    return task.task.desired_state <= RUNNING and task.state == RUNNING and not task.status.not_ready


def has_completed(view: ServiceProgress, task: TaskView) -> bool:
    """Whether the task has ended well under a policy that starts none after it: there is nothing to wait for."""
    again = view.service.service.spec.task.restart.condition == _ANY
    return task.state == COMPLETE and task.task.desired_state <= SHUTDOWN and not again


def serves(view: ServiceProgress, task: TaskView) -> bool:
    """Whether the task has come as far as it is to come."""
    return runs(task) or has_completed(view, task)


def is_given_up(task: TaskView) -> bool:
    """Whether the task has failed and none follows it; one that another follows is not told of."""
    return task.state in (_FAILED, _REJECTED) and task.task.desired_state >= SHUTDOWN


def _given_up_text(task: TaskView) -> str:
    why = task.error or "it gave no reason"
    place = task.task.slot or task.task.bound_node_id
    return f"task {task.task.service_name}.{place} failed and is not started again, as the restart policy says: {why}"


def _short(error: str) -> str:
    error = error.replace("\n", " ")
    return error if len(error) <= MAX_ERROR else error[: MAX_ERROR - 1] + "…"
