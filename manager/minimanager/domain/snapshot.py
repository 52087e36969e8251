"""One consistent, immutable view of the cluster: what every decision is a function of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from minimanager.domain.objects import (
    ClientCertificate,
    Cluster,
    Config,
    IssuedToken,
    Network,
    Node,
    NodeStatus,
    Rollout,
    Secret,
    Service,
    Task,
    TaskState,
    TaskStatus,
)

_NO_TASKS: Mapping[str, Task] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The objects at one revision, by id, with the indexes that the decisions need.

    `statuses`, `node_statuses` and `rollouts` are keyed by the id of what they speak of. `tasks_by_node` has the tasks
    that no node has yet under the empty id; `tasks_by_network` has a task under each network that it has an address on.
    """

    revision: int = 0
    cluster: Cluster | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    node_statuses: Mapping[str, NodeStatus] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    configs: Mapping[str, Config] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    statuses: Mapping[str, TaskStatus] = field(default_factory=dict)
    tokens: Mapping[str, IssuedToken] = field(default_factory=dict)
    clients: Mapping[str, ClientCertificate] = field(default_factory=dict)
    tasks_by_service: Mapping[str, Mapping[str, Task]] = field(default_factory=dict)
    tasks_by_node: Mapping[str, Mapping[str, Task]] = field(default_factory=dict)
    tasks_by_network: Mapping[str, Mapping[str, Task]] = field(default_factory=dict)

    def of_service(self, service_id: str) -> Mapping[str, Task]:
        """The service's tasks by id, finished ones included."""
        return self.tasks_by_service.get(service_id, _NO_TASKS)

    def of_node(self, node_id: str) -> Mapping[str, Task]:
        """The tasks assigned to the node by id, finished ones included."""
        return self.tasks_by_node.get(node_id, _NO_TASKS)

    def of_network(self, network_id: str) -> Mapping[str, Task]:
        """The tasks that have an address on the network by id, finished ones that still hold theirs included."""
        return self.tasks_by_network.get(network_id, _NO_TASKS)

    @property
    def unassigned(self) -> Mapping[str, Task]:
        """The tasks that no node has yet, by id."""
        return self.tasks_by_node.get("", _NO_TASKS)

    def state(self, task: Task) -> TaskState:
        """The observed state: the later of what the manager and the node say."""
        status = self.statuses.get(task.id)
        return task.state if status is None else max(task.state, status.state)

    def up(self, task: Task) -> bool:
        """Whether the task does its work: it runs, and no readiness check says otherwise."""
        status = self.statuses.get(task.id)
        return self.state(task) is TaskState.RUNNING and not (status is not None and status.not_ready)

    @property
    def ingress(self) -> Network | None:
        """The cluster's ingress network."""
        return next((network for network in self.networks.values() if network.spec.ingress), None)
