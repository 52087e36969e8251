"""What goes with which mode."""

from __future__ import annotations

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minimanager.domain.objects import (
    ContainerSpec,
    Placement,
    PlacementStrategy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from minimanager.domain.validate import begins_anew, ensure_may_change, validate_service
from minimanager.domain.validate_mode import ensure_scalable

GLOBALS = (ServiceMode.GLOBAL, ServiceMode.GLOBAL_JOB)
JOBS = (ServiceMode.REPLICATED_JOB, ServiceMode.GLOBAL_JOB)


def spec(mode: ServiceMode, **changes: object) -> ServiceSpec:
    given: dict[str, object] = {"replicas": 0 if mode.is_global else 2, **changes}
    task = TaskSpec(container=ContainerSpec(image="whoami:1"))
    return ServiceSpec(name="web", mode=mode, task=task, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ServiceMode)
def test_each_mode_is_accepted_with_what_it_obeys(mode: ServiceMode) -> None:
    assert validate_service(spec(mode)) == spec(mode)
    assert (mode.is_global, mode.is_job) == (mode in GLOBALS, mode in JOBS)


@pytest.mark.parametrize("mode", GLOBALS)
@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("replicas", {"replicas": 1}),
        ("replicas-max-per-node", {"placement": Placement(max_replicas=1)}),
        ("placement-pref", {"placement": Placement(spread_over=("node.labels.zone",))}),
        ("placement-strategy", {"placement": Placement(strategy=PlacementStrategy.BINPACK)}),
    ],
)
def test_one_task_per_node_leaves_nothing_to_count_or_choose(
    mode: ServiceMode, field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} can only be used with replicated or"):
        validate_service(spec(mode, **changes))


@pytest.mark.parametrize("mode", [mode for mode in ServiceMode if mode is not ServiceMode.REPLICATED_JOB])
def test_only_a_replicated_job_limits_how_many_run_at_once(mode: ServiceMode) -> None:
    with pytest.raises(
        InvalidArgumentError, match="max-concurrent can only be used with replicated-job mode"
    ):
        validate_service(spec(mode, max_concurrent=1))


@pytest.mark.parametrize("mode", JOBS)
def test_a_job_is_run_anew_and_not_updated_in_steps(mode: ServiceMode) -> None:
    with pytest.raises(InvalidArgumentError, match="update and rollback configs cannot be used with jobs"):
        validate_service(spec(mode, update=UpdateConfig(parallelism=2)))


@pytest.mark.parametrize("count", [-1, 1_000_001])
@pytest.mark.parametrize("field", ["replicas", "max_concurrent"])
def test_counts_have_bounds(field: str, count: int) -> None:
    with pytest.raises(InvalidArgumentError, match="must be 0"):
        validate_service(spec(ServiceMode.REPLICATED_JOB, **{field: count}))


@pytest.mark.parametrize("mode", ServiceMode)
def test_scaling_is_for_those_that_count(mode: ServiceMode) -> None:
    if mode.is_global:
        with pytest.raises(FailedPreconditionError, match="scale can only be used with replicated or"):
            ensure_scalable(spec(mode))
    else:
        ensure_scalable(spec(mode))


def test_a_mode_stays() -> None:
    with pytest.raises(FailedPreconditionError, match="service mode change is not allowed"):
        ensure_may_change(spec(ServiceMode.GLOBAL), spec(ServiceMode.GLOBAL_JOB))


@pytest.mark.parametrize("mode", ServiceMode)
def test_any_change_runs_a_job_anew(mode: ServiceMode) -> None:
    assert begins_anew(spec(mode), spec(mode, labels={"a": "b"})) is mode.is_job
    assert not begins_anew(spec(mode), spec(mode))
