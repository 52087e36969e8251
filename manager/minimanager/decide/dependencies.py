"""Services that wait for others: no task of theirs gets a node before what they depend on has come far enough.

It is a matter of the beginning. Once a task of the service's present specification has a node, its dependencies have
been satisfied, and later tasks of that specification, restarts for one, do not wait again. The tasks themselves say so;
nothing else is kept. While a new specification waits, no task of the old one is stopped for it. A rollback does not
wait: what it goes back to has run before.
"""

from __future__ import annotations

from minimanager.decide import jobs
from minimanager.decide.global_nodes import wanted_nodes
from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import is_released
from minimanager.decide.wants import wants
from minimanager.domain.objects import Dependency, DependencyCondition, Service


def waits_for(overlay: Overlay, service: Service) -> str:
    """What keeps the tasks of the service's present specification from being placed; empty: nothing does."""
    return "; ".join(missing_dependencies(overlay, service).values())


def missing_dependencies(overlay: Overlay, service: Service) -> dict[str, str]:
    """What is still waited for, by the name of the other service."""
    if not service.spec.depends_on or service.rolling_back or _has_begun(overlay, service):
        return {}
    missing = {each.service: _missing(overlay, each) for each in service.spec.depends_on}
    return {name: text for name, text in missing.items() if text}


def _has_begun(overlay: Overlay, service: Service) -> bool:
    return any(
        task.node_id and task.spec_version == service.spec_version for task in overlay.of_service(service.id)
    )


def _missing(overlay: Overlay, dependency: Dependency) -> str:
    """What the other service has not come to yet, in numbers."""
    name = dependency.service
    other = next((each for each in overlay.snapshot.services.values() if each.spec.name == name), None)
    if other is None or other.removing:
        return f"waits for service {name}, which does not exist"
    wanted = wants(overlay.snapshot, other)
    up = _up(overlay, other)
    match dependency.condition:
        case DependencyCondition.STARTED:
            if up or wanted.completed:
                return ""
            return f"waits for service {name} to start: none of its tasks runs"
        case DependencyCondition.HEALTHY:
            if up >= wanted.now:
                return ""
            return f"waits for service {name} to be healthy: {up} of {wanted.now} tasks are"
        case DependencyCondition.COMPLETED:
            return _incomplete(overlay, other, wanted.completed)


def _incomplete(overlay: Overlay, other: Service, completed: int) -> str:
    name = other.spec.name
    if not other.spec.mode.is_job:
        return f"waits for service {name} to complete, which is no job"
    is_global = other.spec.mode.is_global
    total = len(wanted_nodes(overlay, other)) if is_global else other.spec.replicas
    if completed >= total > 0:
        return ""
    given_up = jobs.given_up(overlay, other)
    failed = f", {given_up} failed and will not be tried again" if given_up else ""
    return f"waits for service {name} to complete: {completed} of {total} tasks are done{failed}"


def _up(overlay: Overlay, service: Service) -> int:
    """Tasks of the service's present specification that run, healthy and ready, on nodes that answer."""
    return sum(
        task.spec_version == service.spec_version
        and is_released(task)
        and overlay.snapshot.up(task)
        and not overlay.down(task.node_id)
        for task in overlay.of_service(service.id)
    )
