"""What probes say about a container, in Docker's numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from minicommon.clock import MILLISECOND, SECOND
from miniworker.agent.health.policy import Health, Policy, Verdict, after_probe, pause_ns, policy_of
from miniworker.runtime.api import HealthCheck

DOCKERS = policy_of(HealthCheck(("CMD", "true")))

policies = st.builds(
    Policy,
    interval_ns=st.integers(SECOND // 10, 100 * SECOND),
    timeout_ns=st.just(SECOND),
    retries=st.integers(1, 5),
    start_period_ns=st.one_of(st.just(0), st.integers(MILLISECOND, 100 * SECOND)),
    start_interval_ns=st.integers(SECOND // 10, 10 * SECOND),
)


def run(policy: Policy, outcomes: list[bool]) -> list[tuple[int, Verdict]]:
    """(age, verdict) after each probe, when probing takes no time."""
    health, age, history = Health(), 0, []
    for succeeded in outcomes:
        health = after_probe(policy, health, succeeded=succeeded, age_ns=age)
        history.append((age, health.verdict))
        age += pause_ns(policy, health, age_ns=age)
    return history


def test_the_defaults_are_dockers() -> None:
    assert Policy(30 * SECOND, 30 * SECOND, 3, 0, 5 * SECOND) == DOCKERS


def test_a_healthy_container_is_told_at_once() -> None:
    assert run(DOCKERS, [True]) == [(0, Verdict.HEALTHY)]


def test_a_failing_container_is_given_up_when_docker_would() -> None:
    history = run(DOCKERS, [False] * 20)
    (first,) = {age for age, verdict in history if verdict is Verdict.UNHEALTHY and age <= 90 * SECOND}
    assert first == 90 * SECOND  # at 30, 60 and 90 s, each with an interval between


def test_failures_in_the_start_period_do_not_count() -> None:
    policy = policy_of(
        HealthCheck(
            ("CMD",), interval_ns=SECOND, retries=1, start_period_ns=10 * SECOND, start_interval_ns=SECOND
        )
    )
    history = run(policy, [False] * 30)
    early = [age for age, verdict in history if verdict is Verdict.STARTING]
    assert max(early) < 10 * SECOND
    assert dict(history)[10 * SECOND] is Verdict.UNHEALTHY
    distances = [b - a for a, b in pairwise(early)]
    assert max(distances) <= SECOND


def test_one_success_forgives_and_a_healthy_one_fails_only_in_a_row() -> None:
    health = Health(Verdict.HEALTHY)
    for succeeded in (False, False, True, False, False):
        health = after_probe(DOCKERS, health, succeeded=succeeded, age_ns=0)
    assert (health.verdict, health.failures) == (Verdict.HEALTHY, 2)
    assert after_probe(DOCKERS, health, succeeded=False, age_ns=0).verdict is Verdict.UNHEALTHY


@given(policies, st.lists(st.booleans(), max_size=40))
def test_unhealthy_only_after_as_many_failures_in_a_row_as_asked_for(
    policy: Policy, outcomes: list[bool]
) -> None:
    history = run(policy, outcomes)
    for index, (_, verdict) in enumerate(history):
        if verdict is Verdict.UNHEALTHY:
            assert not any(outcomes[index + 1 - policy.retries : index + 1])
            break


@given(policies)
def test_a_container_that_never_works_is_given_up_no_sooner_than_by_docker(policy: Policy) -> None:
    health, age = Health(), 0
    while health.verdict is Verdict.STARTING:
        health = after_probe(policy, health, succeeded=False, age_ns=age)
        age += pause_ns(policy, health, age_ns=age)
    given_up = age - policy.interval_ns
    assert given_up == policy.grace_ns + (policy.retries - 1) * policy.interval_ns


@given(policies, st.integers(0, 200 * SECOND), st.integers(0, 100))
def test_probes_never_crowd(policy: Policy, age: int, early: int) -> None:
    assert pause_ns(policy, Health(early=early), age_ns=age) > 0
