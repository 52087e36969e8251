"""The four modes on the command line: flags in, lists, inspection and progress out."""

from __future__ import annotations

import io

import pytest
from minictl import flags, service_flags
from minictl.client import messages
from minictl.job_progress import JobProgress
from minictl.output import listing
from minictl.progress import Convergence, Line
from minictl.views import service, service_pretty
from minictl.views import task as task_view
from minictl.wait import Plain, Terminal
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import objects_pb2 as objects
from support import canned

REPLICATED, GLOBAL, REPLICATED_JOB, GLOBAL_JOB = objects.ServiceMode.values()
NODES = ("a" * 25, "b" * 25)
COMPLETE = 576


def create(*words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.CREATE_FLAGS, [*words, "whoami:1"], interspersed=False)
    return objects.ServiceSpec.FromString(service_flags.new_spec(parsed, {}).SerializeToString())


def view(
    mode: objects.ServiceMode.ValueType,
    *tasks: control.TaskView,
    replicas: int = 0,
    running: int = 0,
    desired: int = 0,
    **counts: int,
) -> control.ServiceProgress:
    found = canned.service(replicas=replicas, running=running)
    found.service.spec.mode = mode
    found.service.spec.max_concurrent = counts.pop("max_concurrent", 0)
    found.desired = desired
    for field, count in counts.items():
        setattr(found, field, count)
    return control.ServiceProgress(service=found, tasks=tasks)


def at(node_id: str, state: int, *, desired: int = 512) -> control.TaskView:
    found = canned.task(0, identity=node_id[:2], state=state, desired=desired)
    found.task.bound_node_id = node_id
    return found


def test_flags_reach_their_fields() -> None:
    spec = create("--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2")
    assert (spec.mode, spec.replicas, spec.max_concurrent) == (REPLICATED_JOB, 5, 2)
    spec = create("--mode", "global")
    assert (spec.mode, spec.replicas, spec.max_concurrent) == (GLOBAL, 0, 0)
    assert (create().mode, create().replicas) == (REPLICATED, 1)


def test_an_update_changes_how_many_run_at_once() -> None:
    spec = create("--mode", "replicated-job", "--replicas", "5")
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    parsed = flags.parse(service_flags.UPDATE_FLAGS, ["--max-concurrent", "3"])
    service_flags.change_spec(changed, parsed, {})
    assert (changed.replicas, changed.max_concurrent) == (5, 3)


@pytest.mark.parametrize(
    ("shown", "mode", "replicas"),
    [
        (view(GLOBAL, running=2, desired=3), "global", "2/3"),
        (
            view(REPLICATED_JOB, replicas=5, running=1, desired=2, completed=3),
            "replicated job",
            "1/2 (3/5 completed)",
        ),
        (view(GLOBAL_JOB, running=1, desired=1, completed=2), "global job", "1/1 (2/3 completed)"),
    ],
)
def test_the_list_counts_what_the_mode_has(shown: control.ServiceProgress, mode: str, replicas: str) -> None:
    rows = service.rows([shown.service])
    text = listing.render(service.LAYOUT, rows, format="{{.Mode}}|{{.Replicas}}", quiet=False)
    assert text == f"{mode}|{replicas}\n"


def test_inspection() -> None:
    job = view(REPLICATED_JOB, replicas=5, max_concurrent=2).service
    shown = service.to_json(job)
    assert shown["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}
    assert shown["JobStatus"]["JobIteration"] == {"Index": 0}
    assert " Max Concurrent:\t2\n Total Completions:\t5\n" in service_pretty.render(job)
    everywhere = view(GLOBAL).service
    assert service.to_json(everywhere)["Spec"]["Mode"] == {"Global": {}}
    assert "JobStatus" not in service.to_json(everywhere)
    assert "Service Mode:\tGlobal\n" in service_pretty.render(everywhere)
    assert service.to_json(view(GLOBAL_JOB).service)["Spec"]["Mode"] == {"GlobalJob": {}}


def test_a_task_of_a_global_service_is_named_after_its_node_placed_or_not() -> None:
    waiting = at(NODES[0], 64)
    waiting.task.node_id = ""
    assert task_view.name(waiting, resolve=True) == f"web.{NODES[0]}"
    assert "Slot" not in task_view.to_json(waiting)


def test_the_list_says_when_a_crash_loop_goes_on() -> None:
    waiting = canned.task(1, state=384, desired=384)
    waiting.task.failures = 3
    waiting.task.not_before_ns = canned.NOW_NS + 18 * canned.SECOND
    (row,) = task_view.rows([waiting], now_ns=canned.NOW_NS, truncate=True, resolve=True)
    assert row["Error"] == '"restart 3 in 18 seconds"'
    (row,) = task_view.rows([waiting], now_ns=waiting.task.not_before_ns, truncate=True, resolve=True)
    assert row["Error"] == ""


def test_a_global_service_converges_on_its_nodes() -> None:
    state = Convergence()
    now = canned.NOW_NS
    lines = state.update(view(GLOBAL, at(NODES[0], 512), at(NODES[1], 448), desired=2), now)
    assert [(line.key, line.text.strip()) for line in lines] == [
        ("overall progress", "0 out of 2 tasks"),
        ("a" * 12, "running"),
        ("b" * 12, "starting"),
        ("overall progress", "1 out of 2 tasks"),
    ]
    state.update(view(GLOBAL, at(NODES[0], 512), at(NODES[1], 512), desired=2), now)
    state.tick(now + 5 * canned.SECOND)
    assert state.converged


def test_a_job_is_followed_to_its_end() -> None:
    state = JobProgress()
    now = canned.NOW_NS
    running = canned.task(1, state=512, desired=COMPLETE)
    lines = state.update(
        view(REPLICATED_JOB, running, replicas=2, max_concurrent=1, running=1, desired=1), now
    )
    assert lines == [
        Line("job progress", "0 out of 2 complete"),
        Line("active tasks", "1 out of 1 tasks"),
        Line("1/2", "running  ", 8),
    ]
    done = canned.task(1, state=COMPLETE, desired=COMPLETE)
    lines = state.update(
        view(REPLICATED_JOB, done, replicas=2, max_concurrent=1, desired=1, completed=1), now
    )
    assert Line("1/2", "complete ", 9) in lines
    assert not state.converged
    lines = state.update(view(REPLICATED_JOB, replicas=2, max_concurrent=1, completed=2), now)
    assert lines[-1] == Line("", "job complete")
    assert (state.converged, state.failure) == (True, "")


def test_a_job_that_is_given_up_has_failed() -> None:
    state = JobProgress()
    state.update(view(GLOBAL_JOB, completed=1, given_up=1), canned.NOW_NS)
    assert state.converged
    assert state.failure == "job failed: 1 out of 2 tasks failed and will not be tried again"


def test_a_job_of_many_shows_no_bars() -> None:
    task = canned.task(1, state=512, desired=COMPLETE)
    lines = JobProgress().update(view(REPLICATED_JOB, task, replicas=21, running=1), canned.NOW_NS)
    assert [line.key for line in lines] == ["job progress", "active tasks"]


def test_a_line_without_a_key_is_its_text() -> None:
    for screen in (Plain(out := io.StringIO()), Terminal(out, 80)):
        out.truncate(0)
        out.seek(0)
        screen.show(Line("", "job complete"))
        assert out.getvalue() == "job complete\n"
