"""Waiting for a service to converge: the stream of its changes in, progress in place or as plain lines out."""

from __future__ import annotations

import os

from minicommon.errors import DeadlineError

from minictl.errors import CliError
from minictl.job_progress import JobProgress
from minictl.mode_flags import JOBS
from minictl.patience import Patience
from minictl.progress import MONITOR_NS, STEPS, Convergence
from minictl.stop_progress import StopTimes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TextIO

    from miniproto.v1.control_pb2 import ServiceProgress

    from minictl.client.channel import Responses
    from minictl.context import Context
    from minictl.progress import Line

    class Screen(Protocol):
        def show(self, line: Line) -> None: ...


_BAR_WIDTH = 50
_DEFAULT_COLUMNS = 80


class Plain:
    """One line of text per line, without the bars, which would only repeat; for files and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._waiting = False

    def show(self, line: Line) -> None:
        if line.step:
            return
        counting = line.key == "verify" and line.text.startswith("Waiting")
        if not (counting and self._waiting):
            self._out.write(f"{_text(line)}\n")
            self._out.flush()
        self._waiting = counting


class Terminal:
    """Each key has its line; a new text is written over the old one. The cursor rests under the last line."""

    def __init__(self, out: TextIO, columns: int) -> None:
        self._out = out
        self._columns = columns
        self._rows: dict[str, int] = {}

    def show(self, line: Line) -> None:
        text = _text(line)
        if line.step:
            bar = f" {bar_text(line.step)}"
            text += bar if len(text) + len(bar) <= self._columns else ""
        row = self._rows.get(line.key)
        if row is None:
            self._rows[line.key] = len(self._rows)
            self._out.write(f"{text[: self._columns]}\n")
        else:
            up = len(self._rows) - row
            self._out.write(f"\x1b[{up}A\x1b[2K\r{text[: self._columns]}\x1b[{up}B\r")
        self._out.flush()


def _text(line: Line) -> str:
    return f"{line.key}: {line.text}" if line.key else line.text


def bar_text(step: int) -> str:
    """`[=====>     ]`, as docker draws it."""
    filled = step * 100 // STEPS // 2
    return f"[{'=' * filled}>{' ' * (_BAR_WIDTH - filled)}]"


def screen_for(out: TextIO, *, plain: bool = False) -> Screen:
    """Lines in place on a terminal, plain lines elsewhere and where they are asked for."""
    if plain or not out.isatty():
        return Plain(out)
    try:
        columns = os.get_terminal_size(out.fileno()).columns
    except OSError:
        columns = 0
    return Terminal(out, columns or _DEFAULT_COLUMNS)


class _Quiet:
    def show(self, line: Line) -> None:
        return


_ACTIVE = (0, 3)
_UPDATE_PAUSED, _ROLLBACK_PAUSED = _PAUSED = (1, 4)
"""States of a rollout, by their numbers in the API."""

EXIT_ROLLED_BACK = 2
EXIT_PAUSED = 3
EXIT_NOT_PLACED = 4
EXIT_DEADLINE = 124


def wait_for_service(
    context: Context,
    service_id: str,
    *,
    min_revision: int = 0,
    quiet: bool = False,
    plain: bool = False,
    rolling_back: bool = False,
) -> int:
    """Wait; `plain`: in lines below each other, which also tell how the tasks were stopped.

    Return 0 once the service has converged, or when the user does not want to wait any longer.

    Returns EXIT_ROLLED_BACK when it converged to what it was before, though `rolling_back` was not what was asked
    for; EXIT_PAUSED when its update paused; at its deadline EXIT_NOT_PLACED if a task found no node, else
    EXIT_DEADLINE.
    Raises CliError when the service is removed meanwhile, and when a task, or the job that it is, has failed for good.
    """
    from minictl.client import messages

    screen = _Quiet() if quiet else screen_for(context.out, plain=plain)
    stops = StopTimes() if plain else None
    request = messages.WatchServiceRequest(ref=service_id, min_revision=min_revision)
    context.out.flush()
    try:
        changes = context.channel.stream("Tasks/WatchService", request)
        return _follow(context, changes, screen, service_id, rolling_back, stops)
    except KeyboardInterrupt:
        if not quiet:
            context.print("Operation continuing in background.")
            context.print(f"Use `minictl service ps {service_id}` to check progress.")
    return 0


def _follow(
    context: Context,
    changes: Responses,
    screen: Screen,
    service_id: str,
    rolling_back: bool,
    stops: StopTimes | None,
) -> int:
    state: Convergence | JobProgress = Convergence()
    begun = False
    replacing = False
    code = 0
    patience = Patience()
    latest: ServiceProgress | None = None
    while not state.converged or replacing:
        wakes_ns = state.wake_ns if state.wake_ns is not None else patience.wake_ns
        timeout = None if wakes_ns is None else max(wakes_ns - context.now_ns(), 1) / 1e9
        try:
            change = changes.receive(timeout)
        except DeadlineError:
            lines = state.tick(context.now_ns())
            if latest is not None and state.wake_ns is None and patience.is_over(context.now_ns()):
                changes.cancel()
                context.warn(_gave_up(service_id, patience))
                return code_at_deadline(latest)
        else:
            if change is None:
                raise CliError(
                    f"the daemon stopped telling about service {service_id}; it goes on in the background"
                )
            if change.removed:
                raise CliError(f"service {service_id} was removed while waiting for it")
            if not begun and change.service.service.spec.mode in JOBS:
                state = JobProgress()
            elif not begun and change.service.service.spec.HasField("update"):
                update = change.service.service.spec.update
                state = Convergence(monitor_ns=update.monitor_ns or MONITOR_NS)
            begun = True
            latest = change
            replacing = is_replacing(change)
            patience.update(change, context.now_ns(), replacing=replacing)
            if (paused := paused_code(change)) is not None:
                changes.cancel()
                rollout = change.service.rollout
                what = "rollback" if rollout.state == _ROLLBACK_PAUSED else "update"
                context.warn(f"service {what} paused: {rollout.message}")
                return paused
            code = EXIT_ROLLED_BACK if change.service.service.rolling_back and not rolling_back else 0
            lines = [*(stops.update(change) if stops else ()), *state.update(change, context.now_ns())]
        for line in lines:
            screen.show(line)
        if state.failure and not replacing:
            break
    changes.cancel()
    if state.failure:
        raise CliError(state.failure)
    return code


def _gave_up(service_id: str, patience: Patience) -> str:
    from minicommon.units import format_duration

    deadline = format_duration(patience.deadline_ns)
    return f"service {service_id}: no progress for {deadline}; it goes on in the background"


def is_replacing(change: ServiceProgress) -> bool:
    """Whether tasks are still being replaced, or watched."""
    view = change.service
    return (
        view.HasField("rollout")
        and view.rollout.update_number == view.service.update_number
        and view.rollout.state in _ACTIVE
    )


def paused_code(change: ServiceProgress) -> int | None:
    """The exit code for an update that paused; None: it has not."""
    view = change.service
    if not view.HasField("rollout") or view.rollout.update_number != view.service.update_number:
        return None
    if view.rollout.state not in _PAUSED:
        return None
    return code_at_deadline(change) if view.rollout.timed_out else EXIT_PAUSED


def code_at_deadline(change: ServiceProgress) -> int:
    """The exit code for what has not come about in time."""
    waits = any(not task.task.node_id and task.error for task in change.tasks)
    return EXIT_NOT_PLACED if waits else EXIT_DEADLINE
