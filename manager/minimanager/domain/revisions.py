"""The specifications that a service has had, and what becomes of it when it gets another one.

Each change of the specification is a revision with a number of its own. A task template that comes back, by a rollback
or by hand, gets back its `spec_version`, so that tasks that still run with it are kept.
"""

from __future__ import annotations

from dataclasses import replace

from minicommon.errors import FailedPreconditionError, NotFoundError

from minimanager.domain.belongings import Belongings
from minimanager.domain.objects import Revision, Rollout, Service, ServiceSpec, TaskSpec

MAX_REVISIONS = 10
"""Former ones that are kept; Swarm keeps one."""


def revised(service: Service, spec: ServiceSpec, has: Belongings, *, now_ns: int) -> Service:
    """The service with `spec` and what belongs to it; as it is, but for the latter, when it has it already."""
    if spec == service.spec:
        return replace(service, ports=has.ports, virtual_addresses=has.virtual_addresses)
    number = service.revision + 1
    former = (*service.revisions, _present(service))[-MAX_REVISIONS:]
    return replace(
        service,
        spec=spec,
        ports=has.ports,
        virtual_addresses=has.virtual_addresses,
        spec_version=number if spec.mode.is_job else _version_of(former, spec.task, number),
        revision=number,
        revised_at_ns=now_ns,
        revisions=former,
    )


def requested(service: Service, *, rolling_back: bool = False) -> Service:
    """The service after a request to replace what is out of date: a rollout that was given up begins anew."""
    return replace(
        service, update_number=service.update_number + 1, rolling_back=rolling_back, update_paused=False
    )


def ensure_replacing(service: Service, rollout: Rollout | None) -> None:
    """Raises FailedPreconditionError when no update of the service is under way that could be held."""
    if rollout is None:
        over = service.update_number == 0 or service.spec.mode.is_job
    else:
        over = rollout.state.completed and rollout.update_number == service.update_number
    if over:
        raise FailedPreconditionError(f"service {service.spec.name} has no update in progress")


def all_revisions(service: Service) -> tuple[Revision, ...]:
    """The former revisions, oldest first, and the present one."""
    return (*service.revisions, _present(service))


def revision_to_go_back_to(service: Service, number: int = 0) -> Revision:
    """The revision of this number; 0: the one before the present.

    Raises FailedPreconditionError when there is none before, and NotFoundError when the number is not kept.
    """
    if number == 0:
        if not service.revisions:
            raise FailedPreconditionError(f"service {service.spec.name} does not have a previous spec")
        return service.revisions[-1]
    for revision in all_revisions(service):
        if revision.number == number:
            return revision
    kept = ", ".join(str(revision.number) for revision in all_revisions(service))
    raise NotFoundError(f"service {service.spec.name} has no revision {number}, only {kept}")


def last_other_template(service: Service) -> Revision | None:
    """The newest revision with another task template: what a failed update goes back to."""
    others = [each for each in service.revisions if each.spec_version != service.spec_version]
    return others[-1] if others else None


def _present(service: Service) -> Revision:
    created_at_ns = service.revised_at_ns or service.meta.created_at_ns
    return Revision(service.revision, service.spec_version, created_at_ns, service.spec)


def _version_of(former: tuple[Revision, ...], task: TaskSpec, number: int) -> int:
    for revision in reversed(former):
        if revision.spec.task == task:
            return revision.spec_version
    return number
