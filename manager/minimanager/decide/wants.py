"""How many tasks a service should have running now, how far a job has come, and what has ended for good."""

from __future__ import annotations

from dataclasses import dataclass

from minimanager.decide import jobs
from minimanager.decide.global_nodes import wanted_nodes
from minimanager.decide.overlay import Overlay
from minimanager.decide.restart import should_restart
from minimanager.decide.slots import is_outdated
from minimanager.domain.objects import RestartCondition, Service, Task
from minimanager.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Wants:
    now: int
    """Tasks that should run at this moment."""
    completed: int = 0
    """Of a job, in its present iteration."""
    given_up: int = 0
    """Of a job: failed, and granted no other try."""


def wants(snapshot: Snapshot, service: Service) -> Wants:
    """What the service wants, as the cluster is now. A job's share that is done or given up is not wanted any more."""
    if service.removing:
        return Wants(0)
    spec = service.spec
    if not spec.mode.is_global and not spec.mode.is_job:
        return Wants(spec.replicas)
    overlay = Overlay(snapshot, 0, _no_ids)
    nodes = wanted_nodes(overlay, service) if spec.mode.is_global else frozenset()
    if not spec.mode.is_job:
        return Wants(len(nodes))
    completed, given_up = jobs.completed(overlay, service), jobs.given_up(overlay, service)
    if spec.mode.is_global:
        return Wants(len(nodes - jobs.settled_nodes(overlay, service)), completed, given_up)
    return Wants(min(jobs.concurrency(spec), spec.replicas - completed - given_up), completed, given_up)


def last_tries(snapshot: Snapshot, service: Service) -> list[Task]:
    """The newest tasks of places that stay empty: they have ended, and the restart policy grants no other.

    Those of jobs are counted by `wants`.
    """
    policy = service.spec.task.restart
    endless = policy.condition is RestartCondition.ANY and not policy.max_attempts
    if service.removing or service.spec.mode.is_job or endless:
        return []
    overlay = Overlay(snapshot, 0, _no_ids)
    return [
        slot.newest
        for slot in overlay.slots(service.id).values()
        if overlay.finished(slot.newest)
        and not slot.active
        and not is_outdated(slot.newest, service)
        and not should_restart(overlay, slot)
    ]


def _no_ids() -> str:
    raise AssertionError("counting makes no tasks")
