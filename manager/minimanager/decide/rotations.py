"""Rotations of secrets: how far they have come, when one has failed and goes back, and which contents nobody needs.

The API writes the new version. Here the services are moved to it, some at a time, and it is seen how that ends: their
tasks are moved by the rollout, under each service's own policy. A version is *in use* while a service asks for it or a
task that has not ended has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from minimanager.domain.objects import RolloutState, Secret, SecretVersion, Service
from minimanager.domain.objects import RotationState as State
from minimanager.domain.rotation import moved, versions_in
from minimanager.domain.snapshot import Snapshot

SERVICES_AT_ONCE = 16
"""That are moved in one transaction, which must stay within what etcd takes."""

_FAILED = (RolloutState.PAUSED, RolloutState.ROLLBACK_STARTED, RolloutState.ROLLBACK_PAUSED)


@dataclass(frozen=True, slots=True)
class SaveSecret:
    """Write the secret and the services that are moved with it, and remove the contents of these versions."""

    secret: Secret
    services: tuple[Service, ...] = ()
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotations:
    actions: tuple[SaveSecret, ...] = ()
    wake_at_ns: int | None = None


def rotations(snapshot: Snapshot, now_ns: int) -> Rotations:
    """What to do now for all secrets of which there is something to do, and when to look again."""
    open_ = [secret for secret in snapshot.secrets.values() if _is_open(secret)]
    if not open_:
        return Rotations()
    used = _versions_in_use(snapshot, {secret.id for secret in open_})
    actions = [_decide(snapshot, secret, used[secret.id], now_ns) for secret in open_]
    later = [
        version.remove_at_ns
        for action, secret in zip(actions, open_, strict=True)
        for version in (action.secret if action else secret).versions
        if version.remove_at_ns
    ]
    return Rotations(tuple(action for action in actions if action), min(later, default=None))


def _is_open(secret: Secret) -> bool:
    return secret.rotation.state.active or len(secret.versions) > 1


def _versions_in_use(snapshot: Snapshot, wanted: set[str]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {secret_id: set() for secret_id in wanted}
    for service in snapshot.services.values():
        if not service.removing:
            for use in service.spec.task.container.secrets:
                if use.secret in found:
                    found[use.secret].add(use.version)
    for task in snapshot.tasks.values():
        if task.spec.container.secrets and not snapshot.state(task).finished:
            for use in task.spec.container.secrets:
                if use.secret in found:
                    found[use.secret].add(use.version)
    return {secret_id: frozenset(versions) for secret_id, versions in found.items()}


def _decide(snapshot: Snapshot, secret: Secret, used: frozenset[int], now_ns: int) -> SaveSecret | None:
    changed, services = _advance(snapshot, secret, used, now_ns)
    if services:
        used = used | {changed.version}
    changed, removed = _tidy(changed, used, now_ns)
    if changed == secret:
        return None
    return SaveSecret(changed, services, removed)


def _advance(
    snapshot: Snapshot, secret: Secret, used: frozenset[int], now_ns: int
) -> tuple[Secret, tuple[Service, ...]]:
    rotation = secret.rotation
    if rotation.state is State.ROLLING:
        if why := _failure(snapshot, secret):
            return _revert(snapshot, secret, why, now_ns)
        if rotation.pending:
            return _move(snapshot, secret, now_ns)
        if rotation.old_version not in used and not _any_rolling(snapshot, secret):
            done = replace(rotation, state=State.COMPLETED, ended_at_ns=now_ns)
            return replace(secret, rotation=done), ()
    elif rotation.state is State.REVERTING and rotation.new_version not in used:
        back = replace(rotation, state=State.REVERTED, ended_at_ns=now_ns)
        return replace(secret, rotation=back), ()
    return secret, ()


def _failure(snapshot: Snapshot, secret: Secret) -> str:
    """Why the rotation cannot succeed; empty: it can."""
    rotation = secret.rotation
    for service_id in rotation.services:
        if service_id in rotation.pending:
            continue
        service = snapshot.services.get(service_id)
        if service is None or service.removing:
            continue
        rollout = snapshot.rollouts.get(service_id)
        said = f": {rollout.message}" if rollout is not None and rollout.message else ""
        asked = versions_in(service.spec, secret.id)
        if asked and rotation.new_version not in asked:
            return f"service {service.spec.name} went back to version {max(asked)}{said}"
        ours = rollout is not None and rollout.update_number == service.update_number
        if rollout is not None and ours and rollout.state in _FAILED and not service.update_paused:
            return f"service {service.spec.name}{said}"
    return ""


def _move(snapshot: Snapshot, secret: Secret, now_ns: int) -> tuple[Secret, tuple[Service, ...]]:
    """The next services get the new version."""
    rotation = secret.rotation
    batch, rest = rotation.pending[:SERVICES_AT_ONCE], rotation.pending[SERVICES_AT_ONCE:]
    present = (service for each in batch if (service := snapshot.services.get(each)) is not None)
    services = tuple(
        moved(service, secret.id, rotation.new_version, now_ns=now_ns)
        for service in present
        if not service.removing and rotation.old_version in versions_in(service.spec, secret.id)
    )
    return replace(secret, rotation=replace(rotation, pending=rest)), services


def _any_rolling(snapshot: Snapshot, secret: Secret) -> bool:
    """Whether a service is still being moved: its new tasks have not run for long enough yet."""
    rollouts = (
        snapshot.rollouts.get(service_id)
        for service_id in secret.rotation.services
        if (service := snapshot.services.get(service_id)) is not None and not service.removing
    )
    return any(rollout is not None and not rollout.state.completed for rollout in rollouts)


def _revert(snapshot: Snapshot, secret: Secret, why: str, now_ns: int) -> tuple[Secret, tuple[Service, ...]]:
    rotation = secret.rotation
    services = tuple(
        moved(service, secret.id, rotation.old_version, now_ns=now_ns, rolling_back=True)
        for service in snapshot.services.values()
        if not service.removing and rotation.new_version in versions_in(service.spec, secret.id)
    )
    back = replace(rotation, state=State.REVERTING, message=why, pending=())
    return replace(secret, version=rotation.old_version, rotation=back), services


def _tidy(secret: Secret, used: frozenset[int], now_ns: int) -> tuple[Secret, tuple[int, ...]]:
    """Versions that nobody uses any more get a date, and go when it has come."""
    kept = tuple(_dated(secret, version, used, now_ns) for version in secret.versions)
    removed = tuple(version.number for version in kept if 0 < version.remove_at_ns <= now_ns)
    if removed or kept != secret.versions:
        return replace(secret, versions=_without(kept, removed)), removed
    return secret, ()


def _dated(secret: Secret, version: SecretVersion, used: frozenset[int], now_ns: int) -> SecretVersion:
    rotation = secret.rotation
    moving = rotation.state.active and version.number in (rotation.old_version, rotation.new_version)
    if version.number == secret.version or version.number in used or moving:
        return replace(version, remove_at_ns=0) if version.remove_at_ns else version
    if version.remove_at_ns:
        return version
    # One that was never taken into use for good is not kept: nobody goes back to it.
    failed = rotation.state is State.REVERTED and version.number == rotation.new_version
    return replace(version, remove_at_ns=now_ns + (0 if failed else rotation.grace_ns))


def _without(versions: Iterable[SecretVersion], removed: tuple[int, ...]) -> tuple[SecretVersion, ...]:
    return tuple(version for version in versions if version.number not in removed)
