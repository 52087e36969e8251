"""What becomes of the tasks of nodes that do not answer, are gone, or are to be emptied.

A task on a node that is down may still run there, so its observed state stays what it was; only once the node has left
the cluster, or has been silent for a day, does the manager declare the task ORPHANED, which ends it. A paused node
keeps its tasks; that it gets no new ones is the scheduler's business.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.domain.objects import HOUR, Task, TaskState

ORPHAN_AFTER_NS = 24 * HOUR
"""How long a node is down before its tasks are given up (swarmkit `manager/dispatcher/dispatcher.go`)."""


def mark_orphans(overlay: Overlay, service_id: str) -> None:
    """Declare ended what nobody will ever report about again."""
    for task in overlay.of_service(service_id):
        if overlay.sound(task.node_id) or overlay.finished(task):
            continue
        if overlay.lost(task.node_id):
            _orphan(overlay, task, "node has been removed")
        elif overlay.down(task.node_id):
            given_up_at_ns = overlay.snapshot.node_statuses[task.node_id].since_ns + ORPHAN_AFTER_NS
            if overlay.now_ns >= given_up_at_ns:
                _orphan(overlay, task, "node has been down for 24 hours")
            else:
                overlay.wake_at(given_up_at_ns)


def _orphan(overlay: Overlay, task: Task, message: str) -> None:
    overlay.put(
        replace(task, state=TaskState.ORPHANED, state_since_ns=overlay.now_ns, message=message, error="")
    )
