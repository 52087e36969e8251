"""Probing a container until there is something to tell."""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.clock import Clock

from miniworker.agent.health import policy as rules
from miniworker.agent.health.policy import Health, Policy, Verdict
from miniworker.agent.health.probes import Prober, Target


@dataclass(frozen=True, slots=True)
class Change:
    """The container passes its check now, or does not any more."""

    verdict: Verdict
    output: str
    """Of the probe that decided it."""


class Watch:
    """One check of one container. It remembers what its probes have shown: it may be left and taken up again."""

    def __init__(
        self,
        prober: Prober,
        clock: Clock,
        *,
        test: tuple[str, ...],
        target: Target,
        policy: Policy,
        began: Verdict,
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._test = test
        self._target = target
        self._policy = policy
        self._health = Health(began)
        self._since_ns = self._next_ns = clock.now_ns()
        if began is Verdict.HEALTHY:
            self._next_ns += rules.pause_ns(policy, self._health, age_ns=0)
        self._output = ""
        self.told = began
        """The verdict that whoever asks knows already."""

    async def change(self) -> Change:
        """Probe until the verdict is another than `told`."""
        while self._health.verdict is self.told:
            await self._probe()
        return Change(self._health.verdict, self._output)

    async def _probe(self) -> None:
        if self._next_ns > self._clock.now_ns():
            await self._clock.sleep_until(self._next_ns)
        age_ns = self._clock.now_ns() - self._since_ns
        result = await self._prober.probe(self._test, self._target, timeout_ns=self._policy.timeout_ns)
        self._health = rules.after_probe(
            self._policy, self._health, succeeded=result.succeeded, age_ns=age_ns
        )
        self._output = result.output
        now_ns = self._clock.now_ns()
        self._next_ns = now_ns + rules.pause_ns(self._policy, self._health, age_ns=now_ns - self._since_ns)


class Monitor:
    """Makes watches."""

    def __init__(self, prober: Prober, clock: Clock) -> None:
        self._prober = prober
        self._clock = clock

    def watch(self, test: tuple[str, ...], target: Target, policy: Policy, *, began: Verdict) -> Watch:
        """A check of a container that is known to be as it `began`."""
        return Watch(self._prober, self._clock, test=test, target=target, policy=policy, began=began)
