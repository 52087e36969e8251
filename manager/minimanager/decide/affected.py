"""Which services a change makes worth a look. Asking too often is cheap, not asking is a bug."""

from __future__ import annotations

from minimanager.decide.actions import NETWORKS
from minimanager.domain.objects import (
    Cluster,
    Node,
    NodeStatus,
    Object,
    Rollout,
    Service,
    Task,
    TaskState,
    TaskStatus,
    VirtualAddress,
)
from minimanager.domain.snapshot import Snapshot

_NONE: frozenset[str] = frozenset()
_NO_ADDRESSES: frozenset[VirtualAddress] = frozenset()


def everything(snapshot: Snapshot) -> frozenset[str]:
    """All services, and the ids of those that are gone but have left tasks: for a new leader."""
    return frozenset(snapshot.services) | frozenset(snapshot.tasks_by_service) | leaving_networks(snapshot)


def leaving_networks(snapshot: Snapshot) -> frozenset[str]:
    """NETWORKS, when one is to be removed."""
    leaving = any(network.removing for network in snapshot.networks.values())
    return frozenset((NETWORKS,)) if leaving else _NONE


def affected(snapshot: Snapshot, kind: str, old: Object | None, new: Object | None) -> frozenset[str]:
    """The ids of the services to look at again after an object of `kind` changed from `old` to `new`, and NETWORKS.

    `kind` is the store's; `snapshot` has the change already. None: the object did not or does not exist.
    """
    present = new if new is not None else old
    match present:
        case Service(id=service_id):
            own = frozenset((service_id,)) | dependents(snapshot, present.spec.name)
            freed = not (_repelled(old) <= _repelled(new) and _virtual(old) <= _virtual(new))
            return own | waiting(snapshot) if freed else own
        case Rollout(id=service_id):
            return frozenset((service_id,))
        case Task():
            return _after_task(snapshot, old, new)
        case TaskStatus():
            return _after_status(snapshot, old, new)
        case Node(id=node_id):
            return _around_node(snapshot, node_id) if _placement(old) != _placement(new) else _NONE
        case NodeStatus(id=node_id):
            return _around_node(snapshot, node_id) if _health(old) != _health(new) else _NONE
        case Cluster():
            return everything(snapshot) if _history(old) != _history(new) else _NONE
        case _:
            return waiting(snapshot) | leaving_networks(snapshot) if kind == "network" else _NONE


def _repelled(service: Object | None) -> frozenset[str]:
    """The names of those whom the service wants to be apart from, and who so may wait for it."""
    return frozenset(service.spec.placement.anti_affinity) if isinstance(service, Service) else _NONE


def _virtual(service: Object | None) -> frozenset[VirtualAddress]:
    """The addresses that the service has for itself."""
    if not isinstance(service, Service) or service.removing:
        return _NO_ADDRESSES
    return frozenset(service.virtual_addresses)


def dependents(snapshot: Snapshot, name: str) -> frozenset[str]:
    """The services that depend on the service of this name, and so may wait for it."""
    return frozenset(
        service.id
        for service in snapshot.services.values()
        if service.spec.depends_on and any(each.service == name for each in service.spec.depends_on)
    )


def waiting(snapshot: Snapshot) -> frozenset[str]:
    """The services with tasks that no node has yet."""
    return frozenset(task.service_id for task in snapshot.unassigned.values())


def _after_task(snapshot: Snapshot, old: Object | None, new: Object | None) -> frozenset[str]:
    own = frozenset(task.service_id for task in (old, new) if isinstance(task, Task))
    if _frees(old, new):
        return own | waiting(snapshot) | leaving_networks(snapshot)
    if isinstance(new, Task) and new.node_id and not (isinstance(old, Task) and old.node_id):
        return own | _followers(snapshot, new.service_name)
    return own


def _followers(snapshot: Snapshot, name: str) -> frozenset[str]:
    """The services that want to be where tasks of the service of this name are, if anything waits at all."""
    if not snapshot.unassigned:
        return _NONE
    services = snapshot.services.values()
    return frozenset(service.id for service in services if name in service.spec.placement.affinity)


def _frees(old: Object | None, new: Object | None) -> bool:
    """Whether the change gives back addresses or room on a node."""
    if not isinstance(old, Task):
        return False
    if not isinstance(new, Task):
        return bool(old.node_id or old.attachments)
    return len(new.attachments) < len(old.attachments) or (new.state.finished and not old.state.finished)


def _after_status(snapshot: Snapshot, old: Object | None, new: Object | None) -> frozenset[str]:
    """An end makes room, opens the gate of a successor and asks for one. A beginning may let a predecessor stop."""
    if not isinstance(new, TaskStatus):
        return _NONE
    before = old.state if isinstance(old, TaskStatus) else TaskState.NEW
    task = snapshot.tasks.get(new.id)
    own = frozenset((task.service_id,)) if task is not None else _NONE
    if new.state.finished:
        return _NONE if before.finished else waiting(snapshot) | own | _dependents_of(snapshot, task)
    begins = _is_up(new) and not _is_up(old)
    if not begins or task is None:
        return _NONE
    others = _dependents_of(snapshot, task)
    if _is_one_too_many(snapshot, task) or _is_being_replaced(snapshot, task):
        return own | others
    return others


def _dependents_of(snapshot: Snapshot, task: Task | None) -> frozenset[str]:
    return dependents(snapshot, task.service_name) if task is not None else _NONE


def _is_up(status: Object | None) -> bool:
    return isinstance(status, TaskStatus) and status.state is TaskState.RUNNING and not status.not_ready


def _is_one_too_many(snapshot: Snapshot, task: Task) -> bool:
    """Whether the task's service has more tasks than it asked for, so that one may be there to be replaced."""
    service = snapshot.services.get(task.service_id)
    return service is not None and len(snapshot.of_service(service.id)) > service.spec.replicas


def _is_being_replaced(snapshot: Snapshot, task: Task) -> bool:
    rollout = snapshot.rollouts.get(task.service_id)
    return rollout is not None and rollout.state.active


def _around_node(snapshot: Snapshot, node_id: str) -> frozenset[str]:
    here = frozenset(task.service_id for task in snapshot.of_node(node_id).values())
    everywhere = _everywhere(snapshot)
    others = [dependents(snapshot, snapshot.services[each].spec.name) for each in everywhere]
    return here | waiting(snapshot) | everywhere.union(*others)


def _everywhere(snapshot: Snapshot) -> frozenset[str]:
    """The services that each node may get a task of."""
    return frozenset(each.id for each in snapshot.services.values() if each.spec.mode.is_global)


def _placement(node: Object | None) -> object:
    """What decisions read of a node."""
    if not isinstance(node, Node):
        return None
    return node.spec.availability, node.spec.role, dict(node.spec.labels)


def _health(status: Object | None) -> object:
    """What decisions read of a node's status."""
    if not isinstance(status, NodeStatus):
        return None
    told = status.description
    known = (told.hostname, told.os, told.architecture, dict(told.engine_labels))
    offered = (told.resources, told.generic_resources, told.allowed, bool(status.encryption_key))
    return status.state, status.address, offered, known


def _history(cluster: Object | None) -> object:
    return cluster.spec.task_history_limit if isinstance(cluster, Cluster) else None
