"""Removal: tasks that nobody needs any more, the history beyond its limit, and services and networks without tasks."""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import Slot, is_active
from minimanager.domain.objects import ClusterSpec, Task, TaskState


def remove_all(overlay: Overlay, service_id: str) -> None:
    """Ask for the removal of all tasks; once none is left, of the service, if it is still there."""
    for task in overlay.of_service(service_id):
        overlay.put(replace(task, desired_state=TaskState.REMOVE))
    service = overlay.snapshot.services.get(service_id)
    if service is not None and not overlay.snapshot.of_service(service_id):
        overlay.delete_service(service)


def remove_networks(overlay: Overlay) -> None:
    """Remove the networks that are to go and that no task has an address on any more."""
    snapshot = overlay.snapshot
    for network in snapshot.networks.values():
        if network.removing and not snapshot.of_network(network.id):
            overlay.delete_network(network)


def reap(overlay: Overlay, service_id: str) -> None:
    """Delete the service's tasks that have served."""
    for task in overlay.of_service(service_id):
        if not is_active(task) and _is_gone(overlay, task):
            overlay.delete(task)
    for slot in overlay.slots(service_id).values():
        if len(slot.tasks) > 1:
            _trim(overlay, slot)


def history_limit(overlay: Overlay, slot: Slot) -> int:
    """How many tasks a slot keeps, the present one included; negative: all (swarmkit `task_reaper.go`).

    A policy with a limit of attempts needs that many and one to be counted at all.
    """
    attempts = slot.newest.spec.restart.max_attempts
    if attempts:
        return attempts + 1
    cluster = overlay.snapshot.cluster
    return (cluster.spec if cluster is not None else ClusterSpec()).task_history_limit


def _is_gone(overlay: Overlay, task: Task) -> bool:
    """Whether nothing of the task is left that a node would have to clean up, and nobody wants to see it.

    A node that is down forgets what it is no longer assigned when it comes back, so nobody waits for it.
    """
    if not task.node_id:
        return True
    if task.desired_state is not TaskState.REMOVE:
        return False
    return overlay.finished(task) or overlay.down(task.node_id)


def _trim(overlay: Overlay, slot: Slot) -> None:
    """Delete the oldest ended tasks beyond the limit; never the newest, which says what the slot did last."""
    limit = history_limit(overlay, slot)
    excess = len(slot.tasks) - max(limit, 1)
    if limit < 0 or excess <= 0:
        return
    ended = [task for task in slot.tasks[:-1] if overlay.finished(task)]
    for task in ended[:excess]:
        overlay.delete(task)
