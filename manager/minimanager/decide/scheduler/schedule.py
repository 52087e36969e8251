"""Give the waiting tasks of some services their nodes, one service after the other, the longest waiting first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from minicommon.grants import required

from minimanager.decide.dependencies import waits_for
from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.demand import MAX_FAILURES, Demand, demand_of
from minimanager.decide.scheduler.filters import capacity, explain, refusals
from minimanager.decide.scheduler.nodes import Column, NodeColumns, columns
from minimanager.decide.scheduler.spread import order, spread
from minimanager.decide.slots import age, is_active
from minimanager.domain.objects import PlacementStrategy, Task, TaskState

ASSIGNED_MESSAGE = "scheduler assigned task to node"


def schedule(overlay: Overlay, service_ids: Sequence[str]) -> None:
    """Assign every task of the services that has its addresses and no node, or say why that is not possible."""
    groups = sorted(_groups(overlay, service_ids), key=lambda group: (age(group[0]), group[0].service_id))
    if not groups:
        return
    nodes = columns(overlay)
    for group in groups:
        if reason := _waits_for(overlay, group[0]):
            for waiting in group:
                overlay.put(replace(waiting, error=reason))
        elif group[0].bound_node_id:
            _place_bound(overlay, nodes, group)
        else:
            _place(overlay, nodes, group)


def _waits_for(overlay: Overlay, task: Task) -> str:
    """What other services a task of the present specification waits for; one of an older waits for none."""
    service = overlay.snapshot.services.get(task.service_id)
    if service is None or task.spec_version != service.spec_version:
        return ""
    return waits_for(overlay, service)


def _groups(overlay: Overlay, service_ids: Sequence[str]) -> Iterator[list[Task]]:
    """The waiting tasks of each version of each service, lowest slot first: identical but for their slot."""
    for service_id in service_ids:
        groups: dict[int, list[Task]] = {}
        for task in overlay.of_service(service_id):
            if task.state is TaskState.PENDING and is_active(task) and not _is_held(task):
                groups.setdefault(task.spec_version, []).append(task)
        for group in groups.values():
            yield sorted(group, key=lambda task: (task.slot, task.id))


def _is_held(task: Task) -> bool:
    return task.held and task.desired_state is TaskState.READY


def _place(overlay: Overlay, nodes: NodeColumns, group: list[Task]) -> None:
    demand = demand_of(overlay, nodes, group[0])
    placed = _spread(nodes, demand, len(group))
    rows = order(placed, demand.service, nodes.tasks)
    nodes.place(placed, demand.task)
    demand.place(placed)
    for waiting, row in zip(group, rows, strict=False):
        _assign(overlay, nodes, waiting, row)
    if len(rows) < len(group):
        error = explain(refusals(nodes, demand), required(demand.task.spec.container))
        for waiting in group[len(rows) :]:
            overlay.put(replace(waiting, error=error))


def _place_bound(overlay: Overlay, nodes: NodeColumns, group: list[Task]) -> None:
    """Tasks of a global service: each has its node, which only has to have room for it."""
    demand = demand_of(overlay, nodes, group[0])
    room = capacity(nodes, demand)
    placed = np.zeros_like(room)
    reasons = {refusal.node_id: refusal for refusal in refusals(nodes, demand)}
    for task in group:
        row = nodes.rows.get(task.bound_node_id)
        if row is None:
            continue  # its node has left, and so will the task
        if room[row] > placed[row]:
            placed[row] += 1
            _assign(overlay, nodes, task, row)
        else:
            reason = reasons.get(task.bound_node_id)
            told = explain([reason] if reason is not None else [], required(task.spec.container))
            overlay.put(replace(task, error=told))
    nodes.place(placed, demand.task)


def _assign(overlay: Overlay, nodes: NodeColumns, task: Task, row: int) -> None:
    overlay.put(
        replace(
            task,
            node_id=nodes.ids[row],
            resources=nodes.take(row, task),
            state=TaskState.ASSIGNED,
            state_since_ns=overlay.now_ns,
            message=ASSIGNED_MESSAGE,
            error="",
        )
    )


def _spread(nodes: NodeColumns, demand: Demand, wanted: int) -> Column:
    """How many of the group each node gets."""
    placement = demand.placement
    return spread(
        wanted,
        room=capacity(nodes, demand),
        service=demand.service,
        tasks=nodes.tasks,
        penalized=demand.failures >= MAX_FAILURES,
        levels=[nodes.branches(key) for key in placement.spread_over],
        fullness=nodes.fullness() if placement.strategy is PlacementStrategy.BINPACK else None,
    )
