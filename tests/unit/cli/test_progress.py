"""Convergence as stories: what happens, and what is printed, on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pytest
from minictl.progress import Convergence, Line
from minictl.wait import Plain, Terminal, bar_text
from miniproto.v1 import control_pb2 as control
from support import canned, golden

GOLDEN = Path(__file__).parent / "golden" / "progress"
SECOND = 1_000_000_000

NEW, PENDING, PREPARING, STARTING, RUNNING, FAILED = 0, 64, 320, 448, 512, 704
COMPLETE, SHUTDOWN, REJECTED = 576, 640, 768

Event = tuple[float, control.ServiceProgress | None]
"""Seconds since the start, and what was pushed then; None: only time passed."""


def view(*tasks: control.TaskView, replicas: int = 2, version: int = 1) -> control.ServiceProgress:
    service = canned.service(replicas=replicas)
    service.service.spec_version = version
    return control.ServiceProgress(service=service, tasks=tasks)


def both(state: int) -> control.ServiceProgress:
    return view(canned.task(1, state=state), canned.task(2, identity="t2", state=state))


def once(*tasks: control.TaskView) -> control.ServiceProgress:
    """Of a service whose tasks are not started again."""
    progress = view(*tasks)
    progress.service.service.spec.task.restart.condition = 2  # type: ignore[assignment]
    return progress


def back(state: int, message: str, *tasks: control.TaskView) -> control.ServiceProgress:
    """Of an update that was rolled back."""
    progress = view(*tasks)
    progress.service.service.rolling_back = True
    progress.service.rollout.state = state  # type: ignore[assignment]
    progress.service.rollout.message = message
    return progress


STORIES: dict[str, list[Event]] = {
    "create": [
        (0, view()),
        (0.1, view(canned.task(1, state=NEW), canned.task(2, identity="t2", state=PENDING))),
        (0.3, view(canned.task(1, state=PREPARING), canned.task(2, identity="t2", state=STARTING))),
        (0.5, view(canned.task(1, state=RUNNING), canned.task(2, identity="t2", state=STARTING))),
        (0.7, both(RUNNING)),
        *((0.7 + second, None) for second in range(1, 6)),
    ],
    "rollback": [
        (0, both(STARTING)),
        (1, back(3, "update rolled back due to failure of task t1", canned.task(1))),
        (2, back(5, "rollback completed", canned.task(1), canned.task(2, identity="t2"))),
        *((2 + second, None) for second in range(1, 6)),
    ],
    "scaled-after-rollback": [
        (0, back(5, "rollback completed", canned.task(1))),
        (1, back(5, "rollback completed", canned.task(1), canned.task(2, identity="t2"))),
        *((1 + second, None) for second in range(1, 6)),
    ],
    "failure": [
        (0, both(RUNNING)),
        (1, None),
        (
            2.5,
            view(
                canned.task(1, state=FAILED, error="task: non-zero exit (1)"), canned.task(2, identity="t2")
            ),
        ),
        (
            8,
            view(
                canned.task(1, identity="t9", state=STARTING),
                canned.task(1, state=FAILED, desired=SHUTDOWN, error="task: non-zero exit (1)"),
                canned.task(2, identity="t2"),
            ),
        ),
        (9, both(RUNNING)),
        (14, None),
    ],
    "pending": [
        (
            0,
            view(
                canned.task(
                    1, state=PENDING, error="no suitable node (insufficient resources on 3 nodes)\n" * 2
                )
            ),
        ),
    ],
    "update": [
        (0, view(canned.task(1), canned.task(2, identity="t2"), version=2)),
        (
            1,
            view(
                canned.task(1, desired=SHUTDOWN),
                canned.task(1, identity="t3", state=STARTING, spec_version=2),
                version=2,
            ),
        ),
        (
            2,
            view(
                canned.task(1, identity="t3", spec_version=2),
                canned.task(2, identity="t4", spec_version=2),
                version=2,
            ),
        ),
        (7, None),
    ],
    "many": [
        (0, view(replicas=21)),
        (1, view(*(canned.task(slot, identity=f"t{slot}") for slot in range(1, 22)), replicas=21)),
        (6, None),
    ],
    "ended-well": [
        (0, once(canned.task(1, state=RUNNING), canned.task(2, identity="t2", state=STARTING))),
        (1, once(canned.task(1, state=COMPLETE, desired=SHUTDOWN), canned.task(2, identity="t2"))),
        (
            2,
            once(
                *(canned.task(slot, identity=f"t{slot}", state=COMPLETE, desired=SHUTDOWN) for slot in (1, 2))
            ),
        ),
        (6, None),
    ],
    "nothing": [(0, view(replicas=0)), (5, None)],
}


def play(events: Iterable[Event], screen: Plain | Terminal) -> Convergence:
    state = Convergence()
    start = canned.NOW_NS
    for seconds, pushed in events:
        now = start + int(seconds * SECOND)
        for line in state.tick(now) if pushed is None else state.update(pushed, now):
            screen.show(line)
    return state


@pytest.mark.parametrize("name", STORIES)
def test_plain(name: str) -> None:
    out = io.StringIO()
    play(STORIES[name], Plain(out))
    golden.check(GOLDEN / f"{name}-plain.txt", out.getvalue())


@pytest.mark.parametrize("name", STORIES)
def test_terminal(name: str) -> None:
    """Escapes are spelled out, so that the file can be read."""
    out = io.StringIO()
    play(STORIES[name], Terminal(out, 80))
    golden.check(
        GOLDEN / f"{name}-terminal.txt", out.getvalue().replace("\x1b", "<ESC>").replace("\r", "<CR>")
    )


@pytest.mark.parametrize(
    ("name", "converged"),
    [("create", True), ("failure", True), ("update", True), ("pending", False), ("ended-well", True)],
)
def test_converged(name: str, converged: bool) -> None:
    assert play(STORIES[name], Plain(io.StringIO())).converged is converged


@pytest.mark.parametrize("state", [COMPLETE, FAILED])
def test_an_end_is_convergence_only_when_it_is_good_and_for_good(state: int) -> None:
    ended = both(state)
    again, over = Convergence(), Convergence()
    again.update(ended, canned.NOW_NS)
    assert again.wake_ns is None
    ended.service.service.spec.task.restart.condition = 2  # type: ignore[assignment]
    over.update(ended, canned.NOW_NS)
    assert (over.wake_ns is not None) is (state == COMPLETE)


GIVEN_UP = canned.task(1, state=FAILED, desired=SHUTDOWN, error="task: non-zero exit (1)")


@pytest.mark.parametrize(
    ("tasks", "given_up"),
    [
        ([GIVEN_UP], True),
        ([canned.task(1, state=REJECTED, desired=SHUTDOWN)], True),
        ([canned.task(1, state=FAILED)], False),  # the manager has not decided yet
        ([GIVEN_UP, canned.task(1, identity="t9", state=STARTING)], False),
        ([canned.task(1, state=COMPLETE, desired=SHUTDOWN)], False),
    ],
)
def test_a_place_is_given_up_when_its_last_task_has_failed(
    tasks: list[control.TaskView], given_up: bool
) -> None:
    state = Convergence()
    state.update(view(*tasks), canned.NOW_NS)
    assert bool(state.failure) is given_up


def test_what_was_given_up_says_which_task_and_why() -> None:
    state = Convergence()
    state.update(view(GIVEN_UP), canned.NOW_NS)
    assert state.failure == (
        "task web.1 failed and is not started again, as the restart policy says: task: non-zero exit (1)"
    )


def test_a_failure_during_the_monitor_period_starts_it_again() -> None:
    state = Convergence()
    now = canned.NOW_NS
    state.update(both(RUNNING), now)
    state.update(view(canned.task(1)), now + 4 * SECOND)
    state.update(both(RUNNING), now + 5 * SECOND)
    assert [line.text for line in state.tick(now + 9 * SECOND)] == [
        "Waiting 1 seconds to verify that tasks are stable..."
    ]
    assert state.tick(now + 10 * SECOND) == [Line("verify", "Service converged")]
    assert (state.converged, state.wake_ns) == (True, None)


def test_it_wakes_when_the_second_that_is_shown_changes() -> None:
    state = Convergence()
    now = canned.NOW_NS
    lines = state.update(both(RUNNING), now)
    assert lines[-1] == Line("verify", "Waiting 5 seconds to verify that tasks are stable...")
    assert state.wake_ns == now + SECOND
    lines = state.tick(now + SECOND)
    assert lines == [Line("verify", "Waiting 4 seconds to verify that tasks are stable...")]


def test_nothing_is_said_twice() -> None:
    state = Convergence()
    assert state.update(view(canned.task(1, state=NEW)), canned.NOW_NS) != []
    assert state.update(view(canned.task(1, state=NEW)), canned.NOW_NS + SECOND) == []


def test_a_bar_that_does_not_fit_is_left_out() -> None:
    out = io.StringIO()
    Terminal(out, 40).show(Line("1/1", "running  ", 9))
    assert out.getvalue() == "1/1: running  \n"


def test_a_full_bar_has_fifty_signs() -> None:
    assert bar_text(9) == "[" + "=" * 50 + ">]"
    assert len(bar_text(1)) == len(bar_text(9))
