"""When a wait is given up."""

from __future__ import annotations

from minictl.patience import DEADLINE_NS, Patience
from miniproto.v1 import control_pb2 as control
from support import canned

SECOND = 1_000_000_000
PENDING, STARTING, RUNNING = 64, 448, 512
REPLICATED_JOB = 2


def view(*states: int, deadline_ns: int | None = None, mode: int = 0) -> control.ServiceProgress:
    service = canned.service(replicas=3)
    service.service.spec.mode = mode  # type: ignore[assignment]
    if deadline_ns is not None:
        service.service.spec.update.progress_deadline_ns = deadline_ns
    tasks = [canned.task(slot, identity=f"t{slot}", state=state) for slot, state in enumerate(states, 1)]
    for task in tasks:
        if task.state <= PENDING:
            task.task.node_id = ""
    return control.ServiceProgress(service=service, tasks=tasks)


def test_another_running_task_is_progress_and_nothing_else_is() -> None:
    patience = Patience()
    patience.update(view(PENDING, PENDING), 0, replacing=False)
    patience.update(view(STARTING, PENDING), 5 * SECOND, replacing=False)
    assert patience.wake_ns == DEADLINE_NS
    patience.update(view(RUNNING, STARTING), 10 * SECOND, replacing=False)
    assert patience.wake_ns == 10 * SECOND + DEADLINE_NS
    patience.update(view(STARTING, STARTING), 20 * SECOND, replacing=False)
    patience.update(view(RUNNING, STARTING), 30 * SECOND, replacing=False)
    assert patience.wake_ns == 10 * SECOND + DEADLINE_NS, "a crash loop goes round, not forward"
    assert not patience.is_over(9 * SECOND + DEADLINE_NS)
    assert patience.is_over(10 * SECOND + DEADLINE_NS)


def test_the_deadline_is_that_of_updates_and_zero_is_never() -> None:
    patience = Patience()
    patience.update(view(PENDING, deadline_ns=3 * SECOND), 0, replacing=False)
    assert patience.wake_ns == 3 * SECOND
    patience = Patience()
    patience.update(view(PENDING, deadline_ns=0), 0, replacing=False)
    assert not patience.is_over(10 * DEADLINE_NS)


def test_an_update_is_left_to_the_manager_and_time_begins_anew_after_it() -> None:
    patience = Patience()
    patience.update(view(PENDING), 0, replacing=False)
    patience.update(view(PENDING), 1, replacing=True)
    assert not patience.is_over(10 * DEADLINE_NS)
    patience.update(view(PENDING), 5 * SECOND, replacing=False)
    assert patience.wake_ns == 5 * SECOND + DEADLINE_NS


def test_a_job_is_given_up_only_while_none_of_its_tasks_works() -> None:
    patience = Patience()
    patience.update(view(PENDING, mode=REPLICATED_JOB), 0, replacing=False)
    assert patience.is_over(DEADLINE_NS)
    patience.update(view(RUNNING, PENDING, mode=REPLICATED_JOB), 1, replacing=False)
    assert not patience.is_over(10 * DEADLINE_NS)
