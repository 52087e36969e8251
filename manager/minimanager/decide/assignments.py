"""What every node is told: its tasks, and where everything is that its ingress needs to reach.

Most of it is the same for all nodes (every published port answers on every node), so there are two parts:
`shared_assignments` is computed once per snapshot, `own_assignments` per node. The keys are those of the dispatcher's
stream: `network/<id>`, `endpoint/<network>/<address>`, `port/<protocol>/<port>`, `task/<id>`, `kept/<task>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from minimanager.decide.slots import is_active, is_released
from minimanager.domain.objects import (
    GenericResource,
    Network,
    NetworkAttachment,
    NodeDescription,
    NodeState,
    PortConfig,
    PortProtocol,
    PublishMode,
    Service,
    Task,
    TaskSpec,
    TaskState,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.template import context_of, expand, has_templates


@dataclass(frozen=True, slots=True)
class NetworkAssignment:
    network: Network
    node_address: str
    """The node's own address on the network; ingress only."""


@dataclass(frozen=True, slots=True)
class EndpointAssignment:
    """An address of a network and the node behind which it is; `task_id` is empty for a node's own address."""

    network_id: str
    address: str
    node_id: str
    vtep: str
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class BackendAssignment:
    task_id: str
    address: str
    node_id: str


@dataclass(frozen=True, slots=True)
class PortAssignment:
    """A published ingress port and the tasks that may get its traffic now, in the order of their ids."""

    protocol: PortProtocol
    published_port: int
    target_port: int
    service_id: str
    service_name: str
    backends: tuple[BackendAssignment, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskAssignment:
    """A task without what only managers need to know, so that their other writes do not reach the node."""

    id: str
    name: str
    service_id: str
    service_name: str
    slot: int
    spec: TaskSpec
    desired_state: TaskState
    attachments: tuple[NetworkAttachment, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    left_at: int = 0
    """The revision at which it left the tables for good, though it still runs; 0: it has not, or was in none."""
    withdrawn: bool = False
    """No node may send it anything new any more. From here it is what is known without the nodes."""
    resources: tuple[GenericResource, ...] = ()
    sealed_registry_auth: bytes = b""
    """Opened on its way to the node."""


@dataclass(frozen=True, slots=True)
class KeptAssignment:
    """A task that has ended: its container stays, for its logs, until the task is forgotten."""

    task_id: str


Item = NetworkAssignment | EndpointAssignment | PortAssignment | TaskAssignment | KeptAssignment


def assignments(snapshot: Snapshot, node_id: str) -> Mapping[str, Item]:
    """Everything that the node is to be told, by key."""
    return {**shared_assignments(snapshot), **own_assignments(snapshot, node_id)}


def shared_assignments(snapshot: Snapshot) -> Mapping[str, Item]:
    """What all nodes are told alike: the endpoints of the ingress network and the published ports."""
    items: dict[str, Item] = {}
    ingress = snapshot.ingress
    if ingress is None:
        return items
    for endpoint in _endpoints(snapshot, ingress):
        items[f"endpoint/{endpoint.network_id}/{endpoint.address}"] = endpoint
    for service in snapshot.services.values():
        if not service.removing:
            items.update(_ports(snapshot, service, ingress))
    return items


def own_assignments(snapshot: Snapshot, node_id: str) -> Mapping[str, Item]:
    """What only this node is told: its tasks, those that have ended too, and the networks with its own address."""
    items: dict[str, Item] = {}
    node = snapshot.nodes.get(node_id)
    if node is None:
        return items
    if (ingress := snapshot.ingress) is not None:
        items[f"network/{ingress.id}"] = NetworkAssignment(ingress, node.ingress_address)
    for task in snapshot.of_node(node_id).values():
        if not snapshot.state(task).finished:
            items[f"task/{task.id}"] = _task(snapshot, task)
        elif task.desired_state < TaskState.REMOVE:
            items[f"kept/{task.id}"] = KeptAssignment(task.id)
    return items


def _expanded(snapshot: Snapshot, task: Task) -> TaskSpec:
    """The specification with what its placeholders stand for on the task's node."""
    container = task.spec.container
    if not has_templates(container):
        return task.spec
    status = snapshot.node_statuses.get(task.node_id)
    description = status.description if status else NodeDescription()
    context = context_of(task, snapshot.services.get(task.service_id), description)
    return replace(task.spec, container=expand(container, context))


def _task(snapshot: Snapshot, task: Task) -> TaskAssignment:
    left_at = left_tables_at(snapshot, task)
    service = snapshot.services.get(task.service_id)
    return TaskAssignment(
        id=task.id,
        name=task.name,
        service_id=task.service_id,
        service_name=task.service_name,
        slot=task.slot,
        spec=_expanded(snapshot, task),
        desired_state=task.desired_state,
        attachments=task.attachments,
        ports=task.ports,
        left_at=left_at,
        withdrawn=not is_active(task) and not left_at,
        resources=task.resources,
        sealed_registry_auth=service.sealed_registry_auth if service is not None else b"",
    )


def left_tables_at(snapshot: Snapshot, task: Task) -> int:
    """The revision at which a task that runs went out of everybody's tables for good.

    0: it is not to stop, does not run yet, or nobody could send it anything. A later write of the task makes it later
    than it was, which only makes the wait for the nodes a moment longer.
    """
    status = snapshot.statuses.get(task.id)
    if not task.attachments or status is None or status.state is not TaskState.RUNNING:
        return 0
    if status.unhealthy:
        return status.meta.version
    return 0 if is_active(task) else task.meta.version


def _endpoints(snapshot: Snapshot, network: Network) -> Iterator[EndpointAssignment]:
    for node_id, node in snapshot.nodes.items():
        status = snapshot.node_statuses.get(node_id)
        if status is None or not status.address:
            continue
        if node.ingress_address:
            yield EndpointAssignment(network.id, node.ingress_address, node_id, status.address)
        for task in snapshot.of_node(node_id).values():
            address = address_on(task, network.id)
            if address and not snapshot.state(task).finished:
                yield EndpointAssignment(network.id, address, node_id, status.address, task.id)


def _ports(snapshot: Snapshot, service: Service, ingress: Network) -> Iterator[tuple[str, PortAssignment]]:
    published = [
        port for port in service.ports if port.publish_mode is PublishMode.INGRESS and port.published_port
    ]
    if not published:
        return
    backends = _backends(snapshot, service, ingress)
    for port in published:
        item = PortAssignment(
            protocol=port.protocol,
            published_port=port.published_port,
            target_port=port.target_port,
            service_id=service.id,
            service_name=service.spec.name,
            backends=backends,
        )
        yield f"port/{port.protocol.name.lower()}/{port.published_port}", item


def _backends(snapshot: Snapshot, service: Service, ingress: Network) -> tuple[BackendAssignment, ...]:
    found = [
        BackendAssignment(task.id, address, task.node_id)
        for task in snapshot.of_service(service.id).values()
        if (address := address_on(task, ingress.id)) and _serves(snapshot, task)
    ]
    return tuple(sorted(found, key=lambda backend: backend.task_id))


def _serves(snapshot: Snapshot, task: Task) -> bool:
    """Whether traffic may be sent to the task: it runs, is well and ready, should go on, and its node is not lost."""
    if not is_released(task) or not snapshot.up(task):
        return False
    observed = snapshot.statuses.get(task.id)
    if observed is not None and observed.unhealthy:
        return False
    status = snapshot.node_statuses.get(task.node_id)
    return task.node_id in snapshot.nodes and status is not None and status.state is not NodeState.DOWN


def address_on(task: Task, network_id: str) -> str:
    """The task's address on the network, or an empty string."""
    return next((each.address for each in task.attachments if each.network_id == network_id), "")
