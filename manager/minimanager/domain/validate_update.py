"""Whether a service's rules of updating may be stored (swarmkit `manager/controlapi/service.go`)."""

from __future__ import annotations

from minicommon.errors import InvalidArgumentError
from minicommon.units import format_duration

from minimanager.domain.objects import HOUR, FailureAction, ServiceSpec, UpdateConfig

ALL = 1_000_000
"""Millionths."""

MAX_PERIOD_NS = 1000 * HOUR
"""Longer is a slip of the finger, and no update is watched for so long."""

MAX_PARALLELISM = 1_000_000
"""As many as a service may have replicas."""


def check_updates(spec: ServiceSpec) -> None:
    """Raises InvalidArgumentError."""
    _check("update", spec.update)
    _check("rollback", spec.rollback)
    if spec.rollback.failure_action is FailureAction.ROLLBACK:
        raise InvalidArgumentError(
            "rollback: failure action must be pause or continue: a rollback is not rolled back"
        )


def _check(name: str, config: UpdateConfig) -> None:
    if not 0 <= config.parallelism <= MAX_PARALLELISM:
        raise InvalidArgumentError(
            f"{name}: parallelism must be 0 (all) to {MAX_PARALLELISM}, not {config.parallelism}"
        )
    if not 0 <= config.max_failure_millionths <= ALL:
        given = config.max_failure_millionths / ALL
        raise InvalidArgumentError(f"{name}: max failure ratio must be 0 to 1, not {given:g}")
    for what, period_ns in (
        ("delay", config.delay_ns),
        ("monitor", config.monitor_ns),
        ("progress deadline", config.progress_deadline_ns),
    ):
        if not 0 <= period_ns <= MAX_PERIOD_NS:
            bound = format_duration(MAX_PERIOD_NS)
            raise InvalidArgumentError(
                f"{name}: {what} must be 0s to {bound}, not {format_duration(period_ns)}"
            )
