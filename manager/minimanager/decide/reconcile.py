"""One pass of all decisions about some services: what is, what should be, and the actions that lead there.

Level-triggered: a pass looks at the whole state of its services and never at what happened, so a lost event, a lost
transaction or a new leader costs one more pass and nothing else. Idempotent: a pass over the result of a pass asks
for nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from minimanager.decide import allocate, everywhere, jobs, node_health, reaper, replicated, restart
from minimanager.decide.actions import NETWORKS, Decision
from minimanager.decide.affected import affected, everything
from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.schedule import schedule
from minimanager.domain.objects import Service
from minimanager.domain.snapshot import Snapshot

__all__ = ["affected", "everything", "reconcile"]


def reconcile(snapshot: Snapshot, dirty: frozenset[str], now_ns: int, new_id: Callable[[], str]) -> Decision:
    """What to do now for the services in `dirty` (ids; those of services that are gone clean up their tasks;
    NETWORKS stands for the networks).

    `new_id` gives the ids of new tasks. `wake_at_ns` of the result speaks of these services only.
    """
    overlay = Overlay(snapshot, now_ns, new_id)
    services = sorted(dirty - {NETWORKS})
    for service_id in services:
        node_health.mark_orphans(overlay, service_id)
        service = snapshot.services.get(service_id)
        if service is None or service.removing:
            reaper.remove_all(overlay, service_id)
        else:
            _orchestrate(overlay, service)
            restart.release(overlay, service)
        reaper.reap(overlay, service_id)
    allocate.allocate(overlay, services)
    schedule(overlay, services)
    if NETWORKS in dirty:
        reaper.remove_networks(overlay)
    return overlay.decision()


def _orchestrate(overlay: Overlay, service: Service) -> None:
    if service.spec.mode.is_global:
        everywhere.orchestrate(overlay, service)
    elif service.spec.mode.is_job:
        jobs.orchestrate(overlay, service)
    else:
        replicated.orchestrate(overlay, service)
