"""Probing a container until there is something to tell."""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.clock import Clock

from miniworker.agent.health import policy as rules
from miniworker.agent.health.policy import Health, Verdict
from miniworker.agent.health.probes import Prober, ProbeResult, Target
from miniworker.runtime.api import HealthCheck


@dataclass(frozen=True, slots=True)
class Change:
    """The container is healthy for the first time, or is no longer."""

    verdict: Verdict
    output: str
    """Of the probe that decided it."""


class Monitor:
    def __init__(self, prober: Prober, clock: Clock) -> None:
        self._prober = prober
        self._clock = clock

    async def change(self, check: HealthCheck, target: Target, *, healthy: bool) -> Change:
        """Probe until the verdict changes: from starting to either, from `healthy` to unhealthy."""
        policy = rules.policy_of(check)
        began = Verdict.HEALTHY if healthy else Verdict.STARTING
        health, since_ns = Health(began), self._clock.now_ns()
        if healthy:
            await self._pause(rules.pause_ns(policy, health, age_ns=0))
        while True:
            age_ns = self._clock.now_ns() - since_ns
            result: ProbeResult = await self._prober.probe(check.test, target, timeout_ns=policy.timeout_ns)
            health = rules.after_probe(policy, health, succeeded=result.succeeded, age_ns=age_ns)
            if health.verdict is not began:
                return Change(health.verdict, result.output)
            await self._pause(rules.pause_ns(policy, health, age_ns=self._clock.now_ns() - since_ns))

    async def _pause(self, duration_ns: int) -> None:
        await self._clock.sleep_until(self._clock.now_ns() + duration_ns)
