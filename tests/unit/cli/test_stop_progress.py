"""How long the steps of a stop took."""

from __future__ import annotations

from typing import Any

from minictl.stop_progress import StopTimes
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import objects_pb2 as objects
from support import canned

MILLISECOND = 1_000_000


def stopped(identity: str, **stop: Any) -> control.TaskView:
    view = canned.task(2, identity=identity, state=640)
    view.task.meta.version = 81
    view.status.state_since_ns = 130 * MILLISECOND
    view.status.stop.CopyFrom(objects.TaskStop(**stop))
    return view


def test_each_stop_is_told_once_and_not_those_before() -> None:
    times = StopTimes()
    old = stopped("old", told_at_ns=1)
    assert times.update(control.ServiceProgress(stopped=[old])) == []
    new = stopped(
        "new",
        told_at_ns=10 * MILLISECOND,
        withdrawn_at_ns=22 * MILLISECOND,
        drained_at_ns=25 * MILLISECOND + 17,
        open_connections=3,
    )
    (line,) = times.update(control.ServiceProgress(stopped=[old, new]))
    assert line.text == (
        f"{new.task.service_name}.2 stopped: removed from tables at revision 81, acknowledged after 12ms, "
        "drained after 3ms, 3 connections left, stopped after 104ms"
    )
    assert times.update(control.ServiceProgress(stopped=[old, new])) == []


def test_a_node_that_did_not_answer_is_told_of() -> None:
    times = StopTimes()
    times.update(control.ServiceProgress())
    late = stopped("late", told_at_ns=1, withdrawn_at_ns=1 + 5000 * MILLISECOND, unacknowledged=1)
    (line,) = times.update(control.ServiceProgress(stopped=[late]))
    assert "not acknowledged by all nodes, given up after 5s" in line.text
