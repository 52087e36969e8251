"""What a group of tasks that are all alike asks of the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.neighbors import Neighbor, neighbors
from minimanager.decide.scheduler.nodes import Column, NodeColumns
from minimanager.decide.slots import is_active
from minimanager.domain.objects import SECOND, Placement, Task, TaskState

MAX_FAILURES = 5
"""A node on which a specification failed so often of late is used last (swarmkit `manager/scheduler/scheduler.go`)."""

FAILURE_WINDOW_NS = 300 * SECOND
"""What "of late" means (same source)."""


@dataclass(slots=True)
class Demand:
    """Each of the group is like `task`; the columns have a row per node."""

    task: Task
    placement: Placement
    service: Column
    """Tasks of the service that are to run there."""
    failures: Column
    """Tasks of this specification that failed there of late."""
    neighbors: tuple[Neighbor, ...] = ()
    encrypted: str = ""
    """The name of one of its networks that is encrypted; empty: none is."""

    def place(self, placed: Column) -> None:
        """Count new tasks: so many on each node."""
        self.service += placed


def demand_of(overlay: Overlay, nodes: NodeColumns, task: Task) -> Demand:
    """What `task`, and others like it, ask now.

    Failures are counted before this pass trims the history, which may be hardly longer than MAX_FAILURES.
    """
    service = overlay.snapshot.services.get(task.service_id)
    running = Counter(
        other.node_id
        for other in overlay.of_service(task.service_id)
        if is_active(other) and not overlay.finished(other)
    )
    failed = Counter(
        other.node_id
        for other in overlay.snapshot.of_service(task.service_id).values()
        if other.spec_version == task.spec_version and _failed_of_late(overlay, other)
    )
    placement = service.spec.placement if service is not None else Placement()
    return Demand(
        task=task,
        placement=placement,
        service=np.array([running[node_id] for node_id in nodes.ids], dtype=np.int64),
        failures=np.array([failed[node_id] for node_id in nodes.ids], dtype=np.int64),
        neighbors=neighbors(overlay, nodes, task.service_name, placement),
        encrypted=next((name for name in _encrypted(overlay, task)), ""),
    )


def _encrypted(overlay: Overlay, task: Task) -> Iterator[str]:
    for use in task.spec.networks:
        network = overlay.snapshot.networks.get(use.network)
        if network is not None and network.spec.encrypted:
            yield network.spec.name


def _failed_of_late(overlay: Overlay, task: Task) -> bool:
    status = overlay.snapshot.statuses.get(task.id)
    if status is None or status.state not in (TaskState.FAILED, TaskState.REJECTED):
        return False
    return status.state_since_ns > overlay.now_ns - FAILURE_WINDOW_NS
