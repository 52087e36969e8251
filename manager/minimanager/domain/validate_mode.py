"""Whether a service's fields go with its mode: what a mode cannot obey is refused, and never ignored."""

from __future__ import annotations

from minicommon.errors import FailedPreconditionError, InvalidArgumentError

from minimanager.domain.objects import PlacementStrategy, ServiceMode, ServiceSpec, UpdateConfig

MAX_REPLICAS = 1_000_000
"""Ten times the tasks that a cluster is built for; more is a slip of the finger."""

NOT_SCALABLE = "scale can only be used with replicated or replicated-job mode"
"""Docker's words (docker/cli `cli/command/service/scale.go`)."""


def check_mode(spec: ServiceSpec) -> None:
    """Raises InvalidArgumentError."""
    if not 0 <= spec.replicas <= MAX_REPLICAS:
        raise InvalidArgumentError(f"replicas: must be 0 to {MAX_REPLICAS}, not {spec.replicas}")
    if not 0 <= spec.max_concurrent <= MAX_REPLICAS:
        raise InvalidArgumentError(
            f"max-concurrent: must be 0 (as many as replicas) to {MAX_REPLICAS}, not {spec.max_concurrent}"
        )
    if spec.max_concurrent and spec.mode is not ServiceMode.REPLICATED_JOB:
        raise _misplaced("max-concurrent", "replicated-job mode")
    if spec.mode.is_global:
        _check_global(spec)
    if spec.mode.is_job and (spec.update != UpdateConfig() or spec.rollback != UpdateConfig()):
        raise InvalidArgumentError(
            "update and rollback configs cannot be used with jobs: a change runs them anew"
        )


def ensure_scalable(spec: ServiceSpec) -> None:
    """Raises FailedPreconditionError for a service that has one task per node."""
    if spec.mode.is_global:
        raise FailedPreconditionError(NOT_SCALABLE)


def _check_global(spec: ServiceSpec) -> None:
    """One task per node: there is nothing to count, and nothing to choose."""
    placement = spec.placement
    for field, given in (
        ("replicas", spec.replicas),
        ("replicas-max-per-node", placement.max_replicas),
        ("placement-pref", placement.spread_over),
        ("placement-strategy", placement.strategy is not PlacementStrategy.SPREAD),
    ):
        if given:
            raise _misplaced(field, "replicated or replicated-job mode")


def _misplaced(field: str, modes: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} can only be used with {modes}")
