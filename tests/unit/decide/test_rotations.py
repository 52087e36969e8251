"""What becomes of a rotation, as a pure function of the cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.rotations import SERVICES_AT_ONCE, rotations
from minimanager.domain.objects import (
    SECOND,
    ContainerSpec,
    Rollout,
    RolloutState,
    Secret,
    SecretRotation,
    SecretSpec,
    SecretUse,
    SecretVersion,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
)
from minimanager.domain.objects import RotationState as State
from minimanager.domain.snapshot import Snapshot

NOW = 1_000 * SECOND
GRACE = 60 * SECOND


def spec(version: int) -> TaskSpec:
    return TaskSpec(container=ContainerSpec(secrets=(SecretUse("s", "key", version),)))


def service(version: int = 2, **changes: object) -> Service:
    made = Service("web", spec=ServiceSpec(name="web", task=spec(version)), update_number=3)
    return replace(made, **changes)  # type: ignore[arg-type]


def task(version: int, state: TaskState = TaskState.RUNNING) -> Task:
    return Task(f"t{version}", service_id="web", spec=spec(version), state=state)


def secret(state: State = State.ROLLING, **changes: object) -> Secret:
    made = Secret(
        "s",
        spec=SecretSpec("key"),
        version=1 if state in (State.REVERTING, State.REVERTED) else 2,
        versions=(SecretVersion(1, size_bytes=3), SecretVersion(2, size_bytes=4)),
        rotation=SecretRotation(state, 1, 2, grace_ns=GRACE, services=("web",)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def cluster(
    held: Secret, *tasks: Task, service_: Service | None = None, rollout: RolloutState | None = None
) -> Snapshot:
    services = {"web": service_} if service_ is not None else {}
    rollouts = {"web": Rollout("web", update_number=3, state=rollout)} if rollout is not None else {}
    return Snapshot(
        secrets={"s": held},
        services=services,
        rollouts=rollouts,
        tasks={each.id: each for each in tasks},
    )


def test_nothing_is_done_for_secrets_at_rest() -> None:
    calm = secret(State.NONE, versions=(SecretVersion(1),), version=1)
    assert rotations(cluster(calm, task(1), service_=service(1)), NOW).actions == ()


@pytest.mark.parametrize(
    ("tasks", "rollout"),
    [
        ((task(1), task(2)), RolloutState.UPDATING),  # some are old
        ((task(2, TaskState.PREPARING),), RolloutState.UPDATING),  # the new one has not shown that it runs
    ],
)
def test_it_is_not_over_before_all_run_with_the_new_one(
    tasks: tuple[Task, ...], rollout: RolloutState
) -> None:
    assert rotations(cluster(secret(), *tasks, service_=service(), rollout=rollout), NOW).actions == ()


def test_it_is_over_when_nobody_has_the_old_one_which_then_has_its_grace() -> None:
    snapshot = cluster(
        secret(),
        task(2),
        task(1, TaskState.SHUTDOWN),
        service_=service(),
        rollout=RolloutState.COMPLETED,
    )
    (action,) = rotations(snapshot, NOW).actions
    assert action.secret.rotation.state is State.COMPLETED
    assert [each.remove_at_ns for each in action.secret.versions] == [NOW + GRACE, 0]
    assert rotations(cluster(action.secret, task(2), service_=service()), NOW).wake_at_ns == NOW + GRACE
    (later,) = rotations(cluster(action.secret, task(2), service_=service()), NOW + GRACE).actions
    assert (later.removed, [each.number for each in later.secret.versions]) == ((1,), [2])


def test_a_version_in_use_again_is_kept() -> None:
    dated = secret(State.COMPLETED, versions=(SecretVersion(1, remove_at_ns=NOW), SecretVersion(2)))
    (action,) = rotations(cluster(dated, service_=service(1)), NOW).actions
    assert [each.remove_at_ns for each in action.secret.versions] == [0, 0]
    assert action.removed == ()


@pytest.mark.parametrize(
    "state", [RolloutState.PAUSED, RolloutState.ROLLBACK_STARTED, RolloutState.ROLLBACK_PAUSED]
)
def test_a_failed_update_takes_all_back(state: RolloutState) -> None:
    (action,) = rotations(cluster(secret(), task(2), service_=service(), rollout=state), NOW).actions
    assert (action.secret.version, action.secret.rotation.state) == (1, State.REVERTING)
    (back,) = action.services
    assert back.spec.task.container.secrets[0].version == 1
    assert back.rolling_back
    assert back.update_number == 4


def test_a_pause_that_was_asked_for_is_no_failure() -> None:
    paused = service(update_paused=True)
    snapshot = cluster(secret(), task(1), service_=paused, rollout=RolloutState.PAUSED)
    assert rotations(snapshot, NOW).actions == ()


def test_a_service_that_the_leader_rolled_back_is_a_failure() -> None:
    (action,) = rotations(cluster(secret(), task(1), service_=service(1)), NOW).actions
    assert (action.secret.rotation.state, action.services) == (State.REVERTING, ())


def test_it_has_gone_back_when_nobody_has_the_new_one_which_goes_at_once() -> None:
    snapshot = cluster(secret(State.REVERTING), task(1), service_=service(1))
    (action,) = rotations(snapshot, NOW).actions
    assert action.secret.rotation.state is State.REVERTED
    assert (action.removed, [each.number for each in action.secret.versions]) == ((2,), [1])


def test_a_pass_over_its_own_result_asks_for_nothing() -> None:
    """Whatever the state: doing what was decided leads to a state with nothing to do at that moment."""
    for state in State:
        for held in (1, 2):
            for rollout in (None, *RolloutState):
                held_secret = secret(state)
                present = service(held)
                for _ in range(4):
                    snapshot = cluster(held_secret, task(held), service_=present, rollout=rollout)
                    decided = rotations(snapshot, NOW)
                    if not decided.actions:
                        break
                    held_secret = decided.actions[0].secret
                    present = next(iter(decided.actions[0].services), present)
                else:
                    raise AssertionError((state, held, rollout))


def test_services_are_moved_some_at_a_time_and_none_twice() -> None:
    names = [f"web{number}" for number in range(SERVICES_AT_ONCE + 3)]
    services = {
        name: replace(service(1), id=name, spec=replace(service(1).spec, name=name)) for name in names
    }
    rotation = SecretRotation(State.ROLLING, 1, 2, services=tuple(names), pending=tuple(names))
    held = secret(rotation=rotation)
    moved: list[str] = []
    for expected in (SERVICES_AT_ONCE, 3):
        (action,) = rotations(Snapshot(secrets={"s": held}, services=services), NOW).actions
        assert len(action.services) == expected
        assert all(each.spec.task.container.secrets[0].version == 2 for each in action.services)
        moved += [each.id for each in action.services]
        services |= {each.id: each for each in action.services}
        held = action.secret
    assert moved == names
    (action,) = rotations(Snapshot(secrets={"s": held}, services=services), NOW).actions
    assert action.secret.rotation.state is State.COMPLETED  # none of them had a task


def test_a_failure_before_all_are_moved_takes_back_those_that_are() -> None:
    first, second = service(2), replace(service(1), id="later", spec=replace(service(1).spec, name="later"))
    rotation = SecretRotation(State.ROLLING, 1, 2, services=("web", "later"), pending=("later",))
    snapshot = Snapshot(
        secrets={"s": secret(rotation=rotation)},
        services={"web": first, "later": second},
        rollouts={"web": Rollout("web", update_number=3, state=RolloutState.PAUSED)},
    )
    (action,) = rotations(snapshot, NOW).actions
    assert [each.id for each in action.services] == ["web"]
    assert (action.secret.rotation.state, action.secret.rotation.pending) == (State.REVERTING, ())
