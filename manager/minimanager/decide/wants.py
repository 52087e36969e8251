"""How many tasks a service should have running now, and how far a job has come: what `service ls` counts."""

from __future__ import annotations

from dataclasses import dataclass

from minimanager.decide import jobs
from minimanager.decide.global_nodes import wanted_nodes
from minimanager.decide.overlay import Overlay
from minimanager.domain.objects import Service
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


def _no_ids() -> str:
    raise AssertionError("counting makes no tasks")
