"""Give the waiting tasks of some services their nodes, one service after the other, the longest waiting first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.filters import capacity, explain, refusals
from minimanager.decide.scheduler.nodes import Column, NodeColumns, columns
from minimanager.decide.scheduler.spread import order, spread
from minimanager.decide.slots import age, is_active
from minimanager.domain.objects import SECOND, Task, TaskState

ASSIGNED_MESSAGE = "scheduler assigned task to node"

MAX_FAILURES = 5
"""A node on which a specification failed so often of late is used last (swarmkit `manager/scheduler/scheduler.go`)."""

FAILURE_WINDOW_NS = 300 * SECOND
"""What "of late" means (same source)."""


def schedule(overlay: Overlay, service_ids: Sequence[str]) -> None:
    """Assign every task of the services that has its addresses and no node, or say why that is not possible."""
    groups = sorted(_groups(overlay, service_ids), key=lambda group: (age(group[0]), group[0].service_id))
    if not groups:
        return
    nodes = columns(overlay)
    for group in groups:
        _place(overlay, nodes, group)


def _groups(overlay: Overlay, service_ids: Sequence[str]) -> Iterator[list[Task]]:
    """The waiting tasks of each service, lowest slot first: identical but for their slot."""
    for service_id in service_ids:
        group = [
            task
            for task in overlay.of_service(service_id)
            if task.state is TaskState.PENDING and is_active(task)
        ]
        if group:
            yield sorted(group, key=lambda task: (task.slot, task.id))


def _place(overlay: Overlay, nodes: NodeColumns, group: list[Task]) -> None:
    task = group[0]
    service, failures = _service_columns(overlay, nodes, task)
    placed = spread(
        len(group),
        room=capacity(nodes, task),
        service=service,
        tasks=nodes.tasks,
        penalized=failures >= MAX_FAILURES,
    )
    rows = order(placed, service, nodes.tasks)
    nodes.place(placed, task)
    for waiting, row in zip(group, rows, strict=False):
        overlay.put(
            replace(
                waiting,
                node_id=nodes.ids[row],
                state=TaskState.ASSIGNED,
                state_since_ns=overlay.now_ns,
                message=ASSIGNED_MESSAGE,
                error="",
            )
        )
    if len(rows) < len(group):
        error = explain(refusals(nodes, task))
        for waiting in group[len(rows) :]:
            overlay.put(replace(waiting, error=error))


def _service_columns(overlay: Overlay, nodes: NodeColumns, like: Task) -> tuple[Column, Column]:
    """Per node: how many tasks of the service are to run there, and how many of this specification failed of late.

    Failures are counted before this pass trims the history, which may be hardly longer than MAX_FAILURES.
    """
    running = Counter(
        task.node_id
        for task in overlay.of_service(like.service_id)
        if is_active(task) and not overlay.finished(task)
    )
    failed = Counter(
        task.node_id
        for task in overlay.snapshot.of_service(like.service_id).values()
        if task.spec_version == like.spec_version and _failed_of_late(overlay, task)
    )
    return (
        np.array([running[node_id] for node_id in nodes.ids], dtype=np.int64),
        np.array([failed[node_id] for node_id in nodes.ids], dtype=np.int64),
    )


def _failed_of_late(overlay: Overlay, task: Task) -> bool:
    status = overlay.snapshot.statuses.get(task.id)
    if status is None or status.state not in (TaskState.FAILED, TaskState.REJECTED):
        return False
    return status.state_since_ns > overlay.now_ns - FAILURE_WINDOW_NS
