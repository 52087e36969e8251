"""Which nodes a global service is to have a task on."""

from __future__ import annotations

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import is_active
from minimanager.domain.objects import Availability, NodeState, Service, Task


def takes(overlay: Overlay, service: Service, node_id: str) -> bool:
    """Whether the node gets a task of the service now, if it has none."""
    node, status = overlay.snapshot.nodes[node_id], overlay.snapshot.node_statuses.get(node_id)
    if node.spec.availability is not Availability.ACTIVE or status is None:
        return False
    return status.state is NodeState.READY and overlay.suits(service, node_id)


def wanted_nodes(overlay: Overlay, service: Service) -> frozenset[str]:
    """The nodes that should have a task of the service now: those that get one, and those that keep theirs."""
    keep = {
        task.bound_node_id
        for task in overlay.of_service(service.id)
        if is_active(task) and not overlay.finished(task) and may_keep(overlay, service, task)
    }
    return frozenset(
        node_id
        for node_id in overlay.snapshot.nodes
        if takes(overlay, service, node_id) or (node_id in keep and not overlay.down(node_id))
    )


def may_keep(overlay: Overlay, service: Service, task: Task) -> bool:
    """Whether the task may stay where it is."""
    node_id = task.bound_node_id
    return not overlay.draining(node_id) and overlay.suits(service, node_id)
