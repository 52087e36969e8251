"""Affinity and anti-affinity: beside whose tasks a service wants to be, and beside whose not.

It is asked when a task is placed; tasks that run are not moved when their neighbors change. Anti-affinity works both
ways: who does not want to be on a node with a service does not get it as a newcomer either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.nodes import Mask, NodeColumns
from minimanager.decide.slots import is_active
from minimanager.domain.objects import Placement


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A service that counts, and the nodes where it has tasks."""

    name: str
    wanted: bool
    """Whether a node must have a task of it; if not, it must have none."""
    own: bool
    """Whether that is what the service says that is being placed, or what the other says of it."""
    present: Mask

    @property
    def allowed(self) -> Mask:
        return self.present if self.wanted else ~self.present


def neighbors(overlay: Overlay, nodes: NodeColumns, name: str, placement: Placement) -> tuple[Neighbor, ...]:
    """All that count for a service of this name and placement."""
    return tuple(_neighbors(overlay, nodes, name, placement))


def _neighbors(overlay: Overlay, nodes: NodeColumns, name: str, placement: Placement) -> Iterator[Neighbor]:
    for other in placement.affinity:
        yield Neighbor(other, wanted=True, own=True, present=_nodes_of(overlay, nodes, other, wanted=True))
    for other in placement.anti_affinity:
        yield Neighbor(other, wanted=False, own=True, present=_nodes_of(overlay, nodes, other, wanted=False))
    for service_id in nodes.repelled.get(name, ()):
        present = _nodes_with(overlay, nodes, service_id, wanted=False)
        service = overlay.snapshot.services[service_id]
        yield Neighbor(service.spec.name, wanted=False, own=False, present=present)


def _nodes_of(overlay: Overlay, nodes: NodeColumns, name: str, *, wanted: bool) -> Mask:
    """Where services of this name have tasks; one that is being removed may share it with another."""
    found = np.zeros(len(nodes.ids), dtype=np.bool_)
    for service in overlay.snapshot.services.values():
        if service.spec.name == name:
            found |= _nodes_with(overlay, nodes, service.id, wanted=wanted)
    return found


def _nodes_with(overlay: Overlay, nodes: NodeColumns, service_id: str, *, wanted: bool) -> Mask:
    """Where the service has tasks. Who wants to be beside them counts only those that are to run."""
    found = np.zeros(len(nodes.ids), dtype=np.bool_)
    for task in overlay.of_service(service_id):
        row = nodes.rows.get(task.node_id)
        if row is not None and not overlay.finished(task) and (is_active(task) or not wanted):
            found[row] = True
    return found
