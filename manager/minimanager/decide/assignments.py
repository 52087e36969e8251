"""What every node is told: its tasks, and where everything is that they and its ingress need to reach.

Most of it is the same for many nodes, so it comes in parts that are computed once for all who get them:

- `shared_assignments`, for every node: published ports answer on all of them;
- `network_assignments`, for the nodes with tasks on the network: who is there, and what the names on it mean;
- `peer_assignments`, for the nodes with tasks on encrypted networks;
- `own_assignments`, for one node.

The keys are those of the dispatcher's stream: `network/<id>`, `endpoint/<network>/<address>`,
`service/<network>/<service>`, `peer/<node>`, `port/<protocol>/<port>`, `secret/<id>/<version>`,
`config/<id>`, `task/<id>`, `kept/<task>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from minimanager.decide.slots import is_active, is_released
from minimanager.domain.objects import (
    GenericResource,
    Network,
    NetworkAttachment,
    NetworkUse,
    NodeDescription,
    NodeState,
    PortConfig,
    PortLocality,
    PortProtocol,
    PublishMode,
    Service,
    Task,
    TaskSpec,
    TaskState,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.template import TemplateContext, context_of, expand, has_templates


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
    host_ip: str = ""
    locality: PortLocality = PortLocality.ANY
    sticky: bool = False
    proxy_protocol: int = 0


@dataclass(frozen=True, slots=True)
class ServiceBackendAssignment:
    """A task of a service on one network, while it may get traffic. `slot` 0: of a global service."""

    task_id: str
    address: str
    node_id: str
    slot: int
    container_name: str


@dataclass(frozen=True, slots=True)
class ServiceAssignment:
    """A service as the others on one network see it; `backends` in the order of their task ids.

    `virtual_address` is empty where the name stands for the tasks themselves.
    """

    network_id: str
    service_id: str
    name: str
    aliases: tuple[str, ...] = ()
    virtual_address: str = ""
    backends: tuple[ServiceBackendAssignment, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerAssignment:
    """A node that takes part in encrypted networks, with its WireGuard public key in base64."""

    node_id: str
    vtep: str
    public_key: str


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


@dataclass(frozen=True, slots=True)
class SecretAssignment:
    """A version of a secret that tasks of the node use; they fetch its content themselves."""

    id: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class ConfigAssignment:
    id: str
    name: str


REMEMBERED = 1 << 18
"""Endpoints and backends that are not made anew for each snapshot, nor compared with themselves field by field."""

Item = (
    NetworkAssignment
    | EndpointAssignment
    | PortAssignment
    | TaskAssignment
    | KeptAssignment
    | ServiceAssignment
    | PeerAssignment
    | SecretAssignment
    | ConfigAssignment
)


def assignments(snapshot: Snapshot, node_id: str) -> Mapping[str, Item]:
    """Everything that the node is to be told, by key."""
    items = {**shared_assignments(snapshot), **own_assignments(snapshot, node_id)}
    networks = networks_of(snapshot, node_id)
    for network_id in networks:
        items.update(network_assignments(snapshot, network_id))
    if any_encrypted(snapshot, networks):
        items.update(peer_assignments(snapshot))
        items.pop(peer_key(node_id), None)
    return items


def shared_assignments(snapshot: Snapshot) -> Mapping[str, Item]:
    """What all nodes are told alike: the endpoints of the ingress network and the published ports."""
    items: dict[str, Item] = {}
    ingress = snapshot.ingress
    if ingress is None:
        return items
    for endpoint in (*_node_endpoints(snapshot, ingress), *_task_endpoints(snapshot, ingress)):
        items[_endpoint_key(endpoint)] = endpoint
    for service in snapshot.services.values():
        if not service.removing:
            items.update(_ports(snapshot, service, ingress))
    return items


def network_assignments(snapshot: Snapshot, network_id: str) -> Mapping[str, Item]:
    """What the nodes with tasks on a network of users are told alike; nothing of one that is gone."""
    network = snapshot.networks.get(network_id)
    if network is None:
        return {}
    items: dict[str, Item] = {f"network/{network_id}": NetworkAssignment(network, "")}
    for endpoint in _task_endpoints(snapshot, network):
        items[_endpoint_key(endpoint)] = endpoint
    for service in _services_on(snapshot, network):
        items[f"service/{network_id}/{service.service_id}"] = service
    return items


def peer_assignments(snapshot: Snapshot) -> Mapping[str, Item]:
    """What the nodes with tasks on encrypted networks are told of each other; those without a key are not there."""
    nodes = {
        task.node_id
        for network in snapshot.networks.values()
        if network.spec.encrypted
        for task in snapshot.of_network(network.id).values()
        if task.node_id in snapshot.nodes and not snapshot.state(task).finished
    }
    items: dict[str, Item] = {}
    for node_id in nodes:
        status = snapshot.node_statuses.get(node_id)
        if status is not None and status.address and status.encryption_key:
            items[peer_key(node_id)] = PeerAssignment(node_id, status.address, status.encryption_key)
    return items


def networks_of(snapshot: Snapshot, node_id: str) -> frozenset[str]:
    """The networks of users that tasks of the node are on: those that the node is told of."""
    found = {
        attachment.network_id
        for task in snapshot.of_node(node_id).values()
        if task.attachments and not snapshot.state(task).finished
        for attachment in task.attachments
    }
    known = (snapshot.networks.get(network_id) for network_id in found)
    return frozenset(network.id for network in known if network is not None and not network.spec.ingress)


def any_encrypted(snapshot: Snapshot, network_ids: Iterable[str]) -> bool:
    """Whether one of the networks is encrypted."""
    return any(snapshot.networks[network_id].spec.encrypted for network_id in network_ids)


def peer_key(node_id: str) -> str:
    """The key of what the others are told of the node's encryption."""
    return f"peer/{node_id}"


def own_assignments(snapshot: Snapshot, node_id: str) -> Mapping[str, Item]:
    """What only this node is told: its tasks, those that have ended too, and the ingress network with its address."""
    items: dict[str, Item] = {}
    node = snapshot.nodes.get(node_id)
    if node is None:
        return items
    if (ingress := snapshot.ingress) is not None:
        items[f"network/{ingress.id}"] = NetworkAssignment(ingress, node.ingress_address)
    for task in snapshot.of_node(node_id).values():
        if not snapshot.state(task).finished:
            items.update(_contents(task))
            items[f"task/{task.id}"] = _task(snapshot, task)
        elif task.desired_state < TaskState.REMOVE:
            items[f"kept/{task.id}"] = KeptAssignment(task.id)
    return items


def _contents(task: Task) -> Iterator[tuple[str, Item]]:
    """The secrets and configs that the task uses."""
    container = task.spec.container
    for secret in container.secrets:
        item = SecretAssignment(secret.secret, secret.name, secret.version)
        yield f"secret/{secret.secret}/{secret.version}", item
    for config in container.configs:
        yield f"config/{config.config}", ConfigAssignment(config.config, config.name)


def expanded(snapshot: Snapshot, task: Task) -> TaskSpec:
    """The specification with what its placeholders stand for on the task's node."""
    container = task.spec.container
    if not has_templates(container):
        return task.spec
    return replace(task.spec, container=expand(container, template_context(snapshot, task)))


def template_context(snapshot: Snapshot, task: Task) -> TemplateContext:
    """What placeholders stand for in what the task is given."""
    status = snapshot.node_statuses.get(task.node_id)
    description = status.description if status else NodeDescription()
    return context_of(task, snapshot.services.get(task.service_id), description)


def _task(snapshot: Snapshot, task: Task) -> TaskAssignment:
    left_at = left_tables_at(snapshot, task)
    service = snapshot.services.get(task.service_id)
    return TaskAssignment(
        id=task.id,
        name=task.name,
        service_id=task.service_id,
        service_name=task.service_name,
        slot=task.slot,
        spec=expanded(snapshot, task),
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


def _node_endpoints(snapshot: Snapshot, network: Network) -> Iterator[EndpointAssignment]:
    """The nodes' own addresses, which they have on the ingress network."""
    for node_id, node in snapshot.nodes.items():
        vtep = _vtep(snapshot, node_id)
        if vtep and node.ingress_address:
            yield EndpointAssignment(network.id, node.ingress_address, node_id, vtep)


def _task_endpoints(snapshot: Snapshot, network: Network) -> Iterator[EndpointAssignment]:
    for task in snapshot.of_network(network.id).values():
        vtep = _vtep(snapshot, task.node_id)
        if vtep and not snapshot.state(task).finished:
            yield _endpoint(network.id, address_on(task, network.id), task.node_id, vtep, task.id)


@lru_cache(maxsize=REMEMBERED)
def _endpoint(network_id: str, address: str, node_id: str, vtep: str, task_id: str) -> EndpointAssignment:
    return EndpointAssignment(network_id, address, node_id, vtep, task_id)


@lru_cache(maxsize=REMEMBERED)
def _backend(task_id: str, task_name: str, address: str, node_id: str, slot: int) -> ServiceBackendAssignment:
    return ServiceBackendAssignment(task_id, address, node_id, slot, f"{task_name}.{task_id}")


def _endpoint_key(endpoint: EndpointAssignment) -> str:
    return f"endpoint/{endpoint.network_id}/{endpoint.address}"


def _vtep(snapshot: Snapshot, node_id: str) -> str:
    """Where the node takes overlay traffic; empty when there is no such node, or it never connected."""
    status = snapshot.node_statuses.get(node_id)
    return status.address if status is not None and node_id in snapshot.nodes else ""


def _services_on(snapshot: Snapshot, network: Network) -> Iterator[ServiceAssignment]:
    """The services that are to be on the network, and those that still have tasks there."""
    tasks_of: dict[str, list[Task]] = {}
    for task in snapshot.of_network(network.id).values():
        if not snapshot.state(task).finished:
            tasks_of.setdefault(task.service_id, []).append(task)
    for service in snapshot.services.values():
        tasks = tasks_of.get(service.id, [])
        use = _use(service.spec.task, network.id) or (_use(tasks[0].spec, network.id) if tasks else None)
        if use is not None and not service.removing:
            yield _service_on(snapshot, service, use, tasks)


def _service_on(
    snapshot: Snapshot, service: Service, use: NetworkUse, tasks: Iterable[Task]
) -> ServiceAssignment:
    backends = [
        _backend(task.id, task.name, address_on(task, use.network), task.node_id, task.slot)
        for task in tasks
        if _serves(snapshot, task)
    ]
    virtual = (each.address for each in service.virtual_addresses if each.network_id == use.network)
    return ServiceAssignment(
        network_id=use.network,
        service_id=service.id,
        name=service.spec.name,
        aliases=use.aliases,
        virtual_address=next(virtual, ""),
        backends=tuple(sorted(backends, key=lambda backend: backend.task_id)),
    )


def _use(spec: TaskSpec, network_id: str) -> NetworkUse | None:
    return next((use for use in spec.networks if use.network == network_id), None)


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
            host_ip=port.host_ip,
            locality=port.locality,
            sticky=port.sticky,
            proxy_protocol=port.proxy_protocol,
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
    for each in task.attachments:
        if each.network_id == network_id:
            return each.address
    return ""
