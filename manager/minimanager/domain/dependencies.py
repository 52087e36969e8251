"""Whether what a service says it depends on may be stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

from minimanager.domain.names import check_name
from minimanager.domain.objects import Dependency, DependencyCondition, Service, ServiceSpec

MAX_DEPENDENCIES = 100
"""Of one service."""


def check_dependencies(spec: ServiceSpec) -> None:
    """Each is named once, and none is the service itself. Raises InvalidArgumentError."""
    if len(spec.depends_on) > MAX_DEPENDENCIES:
        raise InvalidArgumentError(
            f"depends_on: may name at most {MAX_DEPENDENCIES} services, not {len(spec.depends_on)}"
        )
    seen: set[str] = set()
    for dependency in spec.depends_on:
        check_name(dependency.service)
        if dependency.service == spec.name:
            raise InvalidArgumentError(f"depends_on: service {spec.name} cannot depend on itself")
        if dependency.service in seen:
            raise InvalidArgumentError(f"depends_on: service {dependency.service} is named twice")
        seen.add(dependency.service)


def ensure_dependencies(
    services: Mapping[str, Service], spec: ServiceSpec, *, before: Iterable[Dependency] = ()
) -> list[Service]:
    """Check what the service depends on against the others; those that the answer rests on.

    What it depended on `before` may have been removed since. Raises NotFoundError for a service that does not exist,
    FailedPreconditionError for one that never completes and for services that would wait for each other.
    """
    present = {each.spec.name: each for each in services.values() if not each.removing}
    known = set(before)
    for dependency in spec.depends_on:
        other = present.get(dependency.service)
        if other is None:
            if dependency not in known:
                raise NotFoundError(f"depends_on: service {dependency.service} not found")
        elif dependency.condition is DependencyCondition.COMPLETED and not other.spec.mode.is_job:
            raise FailedPreconditionError(
                f"depends_on: service {dependency.service} is no job: it can be waited for until it is started or "
                "healthy, but never completes"
            )
    return _reached(present, spec)


def _reached(present: Mapping[str, Service], spec: ServiceSpec) -> list[Service]:
    """All services that `spec` depends on, directly or not."""
    found: dict[str, Service] = {}
    paths: list[tuple[str, ...]] = [(spec.name, each.service) for each in spec.depends_on]
    while paths:
        path = paths.pop()
        name = path[-1]
        if name == spec.name:
            raise FailedPreconditionError(
                f"depends_on: services would wait for each other: {' -> '.join(path)}"
            )
        other = present.get(name)
        if other is not None and name not in found:
            found[name] = other
            paths += [(*path, each.service) for each in other.spec.depends_on]
    return list(found.values())
