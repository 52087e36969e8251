"""A secret's versions in the services that use it: what changes in a service when the secret's content does."""

from __future__ import annotations

from dataclasses import replace

from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import RotationState as State
from minimanager.domain.objects import Secret, SecretRotation, SecretVersion, Service, ServiceSpec
from minimanager.domain.revisions import requested, revised


def versions_in(spec: ServiceSpec, secret_id: str) -> frozenset[int]:
    """The versions of the secret that the specification asks for."""
    return frozenset(use.version for use in spec.task.container.secrets if use.secret == secret_id)


def moved(
    service: Service, secret_id: str, version: int, *, now_ns: int, rolling_back: bool = False
) -> Service:
    """The service with this version of the secret, to be rolled out under its own policy."""
    container = service.spec.task.container
    secrets = tuple(
        replace(use, version=version) if use.secret == secret_id else use for use in container.secrets
    )
    task = replace(service.spec.task, container=replace(container, secrets=secrets))
    has = Belongings(service.ports, service.virtual_addresses)
    changed = revised(service, replace(service.spec, task=task), has, now_ns=now_ns)
    return requested(
        replace(changed, meta=replace(changed.meta, updated_at_ns=now_ns)), rolling_back=rolling_back
    )


def rotated(
    secret: Secret, *, size_bytes: int, services: tuple[str, ...], grace_ns: int, now_ns: int
) -> Secret:
    """The secret with one more version, which is the present one, and the rotation that leads to it.

    No service is moved yet.
    """
    number = max(each.number for each in secret.versions) + 1
    # A number is never used twice: what is sealed for it opens only once.
    number = max(number, secret.rotation.new_version + 1)
    return replace(
        secret,
        meta=replace(secret.meta, updated_at_ns=now_ns),
        version=number,
        versions=(*secret.versions, SecretVersion(number, now_ns, size_bytes)),
        rotation=SecretRotation(
            state=State.ROLLING,
            old_version=secret.version,
            new_version=number,
            started_at_ns=now_ns,
            grace_ns=grace_ns,
            services=services,
            pending=services,
        ),
    )
