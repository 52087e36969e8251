"""What a row of probes says about a container: pure. The rules are Docker's (moby `daemon/health.go`).

A container is STARTING until its first success. Then, or once its start period is over, `retries` failures in a row
make it unhealthy. Docker probes for the first time after a whole interval, 30 s by default; we ask earlier too, at
once and then at doubling distances: an early success counts, an early failure does not, so a container becomes healthy
sooner and is never given up sooner.

A readiness check goes by the same rules, only that what is unhealthy may become healthy again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from minicommon.clock import MILLISECOND, SECOND

from miniworker.runtime.api import HealthCheck

INTERVAL_NS = 30 * SECOND
TIMEOUT_NS = 30 * SECOND
RETRIES = 3
START_INTERVAL_NS = 5 * SECOND
"""Docker's defaults."""

READY_INTERVAL_NS = 10 * SECOND
READY_TIMEOUT_NS = 1 * SECOND
"""Kubernetes' defaults (`periodSeconds`, `timeoutSeconds`): traffic should not be lost for as long as half a minute."""

EARLY_NS = 100 * MILLISECOND
"""Between the first two probes."""


class Verdict(Enum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Policy:
    """A check with every default filled in."""

    interval_ns: int
    timeout_ns: int
    retries: int
    start_period_ns: int
    start_interval_ns: int

    @property
    def grace_ns(self) -> int:
        """How long failures do not count: until Docker's first probe that would count."""
        return self.start_period_ns or self.interval_ns


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes have shown so far."""

    verdict: Verdict = Verdict.STARTING
    failures: int = 0
    """In a row, of those that count."""
    early: int = 0
    """Probes that failed while failures did not count."""


def readiness_policy_of(check: HealthCheck) -> Policy:
    """Of a check that says whether a container gets traffic."""
    return policy_of(
        replace(
            check,
            interval_ns=check.interval_ns or READY_INTERVAL_NS,
            timeout_ns=check.timeout_ns or READY_TIMEOUT_NS,
        )
    )


def policy_of(check: HealthCheck) -> Policy:
    """Of a check that says whether a container lives."""
    return Policy(
        interval_ns=check.interval_ns or INTERVAL_NS,
        timeout_ns=check.timeout_ns or TIMEOUT_NS,
        retries=check.retries or RETRIES,
        start_period_ns=check.start_period_ns,
        start_interval_ns=check.start_interval_ns or START_INTERVAL_NS,
    )


def pause_ns(policy: Policy, health: Health, *, age_ns: int) -> int:
    """How long to wait before the next probe of a container that has run for `age_ns`."""
    if health.verdict is not Verdict.STARTING or age_ns >= policy.grace_ns:
        return policy.interval_ns
    longest = policy.start_interval_ns if policy.start_period_ns else policy.interval_ns
    return min(EARLY_NS << min(health.early, 30), longest, policy.grace_ns - age_ns)


def after_probe(policy: Policy, health: Health, *, succeeded: bool, age_ns: int) -> Health:
    """The health after a probe that began when the container had run for `age_ns`."""
    if succeeded:
        return Health(Verdict.HEALTHY)
    if health.verdict is Verdict.STARTING and age_ns < policy.grace_ns:
        return replace(health, early=health.early + 1)
    failures = health.failures + 1
    verdict = Verdict.UNHEALTHY if failures >= policy.retries else health.verdict
    return replace(health, verdict=verdict, failures=failures)
