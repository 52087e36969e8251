"""A cluster in memory that carries out decisions: actions become tasks, nodes move them along, time passes at will.

Pure: the same seed gives the same story. Each step checks that actions only touch what they may, as the store would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from minimanager.decide.actions import (
    Action,
    CreateTask,
    Decision,
    DeleteNetwork,
    DeleteService,
    DeleteTask,
    RollBack,
    SaveRollout,
    UpdateTask,
)
from minimanager.decide.reconcile import everything, reconcile
from minimanager.domain.objects import (
    SECOND,
    Availability,
    Cluster,
    ClusterSpec,
    Meta,
    Network,
    NetworkSpec,
    Node,
    NodeDescription,
    NodeResources,
    NodeState,
    NodeStatus,
    PortConfig,
    PortProtocol,
    PublishMode,
    ResourceReservations,
    Resources,
    RestartPolicy,
    Rollout,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import begins_anew

START_NS = 1_700_000_000 * SECOND
GIB = 1 << 30
INGRESS = Network(
    "ingress-id", spec=NetworkSpec(name="ingress", ingress=True), subnet="10.0.0.0/24", gateway="10.0.0.1"
)


def service(service_id: str = "web", **changes: object) -> Service:
    """A service named as its id; `changes` are fields of its specification or of `Service`."""
    spec = ServiceSpec(name=service_id)
    names = ("replicas", "task", "labels", "placement", "mode", "max_concurrent")
    of_spec = {key: value for key, value in changes.items() if key in names}
    of_service = {key: value for key, value in changes.items() if key not in of_spec}
    ports = of_service.get("ports", ())
    return replace(Service(service_id), spec=replace(spec, ports=ports, **of_spec), **of_service)  # type: ignore[arg-type]


def task_spec(
    *, restart: RestartPolicy | None = None, nano_cpus: int = 0, memory_bytes: int = 0, force_update: int = 0
) -> TaskSpec:
    return TaskSpec(
        restart=restart or RestartPolicy(),
        resources=Resources(reservations=ResourceReservations(nano_cpus, memory_bytes)),
        force_update=force_update,
    )


def ingress_port(published: int = 80, target: int = 8080) -> PortConfig:
    return PortConfig(PortProtocol.TCP, target, published)


def host_port(published: int = 80, target: int = 8080) -> PortConfig:
    return PortConfig(PortProtocol.TCP, target, published, PublishMode.HOST)


class Simulation:
    """The store, the nodes and the clock in one."""

    def __init__(self, nodes: int = 3, *, history: int = 5, network: Network | None = INGRESS) -> None:
        self.now_ns = START_NS
        self.revision = 1
        self.cluster: Cluster | None = Cluster("c", spec=ClusterSpec(task_history_limit=history))
        self.nodes: dict[str, Node] = {}
        self.node_statuses: dict[str, NodeStatus] = {}
        self.services: dict[str, Service] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.tasks: dict[str, Task] = {}
        self.statuses: dict[str, TaskStatus] = {}
        self.networks = {network.id: network} if network is not None else {}
        self.wake_at_ns: int | None = None
        self._ids = 0
        for number in range(1, nodes + 1):
            self.add_node(f"node-{number}")

    # --- what users and nodes do ---

    def add_node(self, node_id: str, *, nano_cpus: int = 4 * 10**9, memory_bytes: int = 8 * GIB) -> None:
        number = len(self.nodes) + 1
        self.nodes[node_id] = Node(node_id, meta=self._meta(), ingress_address=f"10.0.0.{number + 1}")
        self.node_statuses[node_id] = NodeStatus(
            node_id,
            state=NodeState.READY,
            address=f"10.77.0.{number + 10}",
            since_ns=self.now_ns,
            description=NodeDescription(hostname=node_id, resources=NodeResources(nano_cpus, memory_bytes)),
        )

    def set_node(self, node_id: str, state: NodeState) -> None:
        self.node_statuses[node_id] = replace(self.node_statuses[node_id], state=state, since_ns=self.now_ns)

    def set_availability(self, node_id: str, availability: Availability) -> None:
        node = self.nodes[node_id]
        self.nodes[node_id] = replace(
            node, spec=replace(node.spec, availability=availability), meta=self._meta()
        )

    def label(self, node_id: str, **labels: str) -> None:
        """Give the node these labels instead of those it has."""
        node = self.nodes[node_id]
        self.nodes[node_id] = replace(node, spec=replace(node.spec, labels=labels), meta=self._meta())

    def remove_node(self, node_id: str) -> None:
        del self.nodes[node_id]
        del self.node_statuses[node_id]

    def put_service(self, wanted: Service) -> None:
        self.services[wanted.id] = replace(wanted, meta=self._meta())

    def update(self, service_id: str = "web", **spec: object) -> None:
        """Change fields of the service's specification, as the API does."""
        old = self.services[service_id]
        changed = replace(old.spec, **spec)  # type: ignore[arg-type]
        version = old.spec_version + begins_anew(old.spec, changed)
        self.put_service(replace(old, spec=changed, spec_version=version, ports=changed.ports))

    def remove_service(self, service_id: str = "web") -> None:
        self.put_service(replace(self.services[service_id], removing=True))

    def report(self, task_id: str, state: TaskState) -> None:
        """The node reports a state of one of its tasks; an earlier one than it has reported is ignored."""
        old = self.statuses.get(task_id)
        if old is None or old.state < state:
            running_since_ns = old.running_since_ns if old is not None else 0
            if state is TaskState.RUNNING:
                running_since_ns = running_since_ns or self.now_ns
            self.statuses[task_id] = TaskStatus(
                task_id,
                meta=Meta(updated_at_ns=self.now_ns),
                state=state,
                state_since_ns=self.now_ns,
                node_id=self.tasks[task_id].node_id,
                running_since_ns=running_since_ns,
            )

    def nodes_work(self) -> bool:
        """Every node that answers does what it was told, to the end. Whether anything happened."""
        before = dict(self.statuses)
        for task in list(self.tasks.values()):
            status = self.node_statuses.get(task.node_id)
            if status is None or status.state is not NodeState.READY or self.state(task).finished:
                continue
            match task.desired_state:
                case TaskState.READY:
                    self.report(task.id, TaskState.READY)
                case TaskState.RUNNING | TaskState.COMPLETE:
                    self.report(task.id, TaskState.RUNNING)
                case _:
                    self.report(task.id, TaskState.SHUTDOWN)
        return before != self.statuses

    # --- what the leader does ---

    def snapshot(self) -> Snapshot:
        by_service: dict[str, dict[str, Task]] = {}
        by_node: dict[str, dict[str, Task]] = {}
        by_network: dict[str, dict[str, Task]] = {}
        for task in self.tasks.values():
            by_service.setdefault(task.service_id, {})[task.id] = task
            by_node.setdefault(task.node_id, {})[task.id] = task
            for attachment in task.attachments:
                by_network.setdefault(attachment.network_id, {})[task.id] = task
        return Snapshot(
            revision=self.revision,
            cluster=self.cluster,
            nodes=dict(self.nodes),
            node_statuses=dict(self.node_statuses),
            services=dict(self.services),
            rollouts=dict(self.rollouts),
            networks=dict(self.networks),
            tasks=dict(self.tasks),
            statuses=dict(self.statuses),
            tasks_by_service=by_service,
            tasks_by_node=by_node,
            tasks_by_network=by_network,
        )

    def decide(self, dirty: frozenset[str] | None = None) -> Decision:
        snapshot = self.snapshot()
        return reconcile(snapshot, everything(snapshot) if dirty is None else dirty, self.now_ns, self.new_id)

    def step(self, *, keep: Callable[[Action], bool] = lambda action: True) -> tuple[Action, ...]:
        """One pass, committed; actions that `keep` refuses are lost, as those of a transaction that lost a race."""
        decision = self.decide()
        self.wake_at_ns = decision.wake_at_ns
        for action in decision.actions:
            if keep(action):
                self.apply(action)
        return decision.actions

    def settle(self, *, steps: int = 30) -> None:
        """Passes and nodes by turns until nobody has anything to do at this moment."""
        for _ in range(steps):
            if not self.step() and not self.nodes_work():
                return
        raise AssertionError(f"not settled after {steps} steps: {self.decide()}")

    def pass_time(self, by_ns: int) -> None:
        self.now_ns += by_ns

    def settle_over_time(self, *, wakes: int = 20) -> None:
        """Settle, and move time to each moment that the leader waits for."""
        self.settle()
        for _ in range(wakes):
            if self.wake_at_ns is None or self.wake_at_ns > self.now_ns + 3600 * SECOND:
                return
            self.now_ns = max(self.now_ns, self.wake_at_ns)
            self.settle()
        raise AssertionError("the leader keeps waking up")

    def apply(self, action: Action) -> None:
        """Carry out one action under the store's rules."""
        match action:
            case CreateTask(task, service_version):
                assert task.id not in self.tasks
                assert self.services[task.service_id].meta.version == service_version
                self.tasks[task.id] = replace(task, meta=replace(task.meta, version=self._bump()))
            case UpdateTask(task):
                old = self.tasks[task.id]
                assert old.meta.version == task.meta.version
                assert task.state >= old.state
                assert task.desired_state >= old.desired_state
                self.tasks[task.id] = replace(task, meta=replace(task.meta, version=self._bump()))
            case DeleteTask(task_id, version):
                assert self.tasks.pop(task_id).meta.version == version
                self.statuses.pop(task_id, None)
            case DeleteService(service_id, version):
                assert self.services.pop(service_id).meta.version == version
                self.rollouts.pop(service_id, None)
                assert all(task.service_id != service_id for task in self.tasks.values())

            case DeleteNetwork(network_id, version):
                assert self.networks.pop(network_id).meta.version == version
                assert not self.snapshot().of_network(network_id)
            case SaveRollout(rollout):
                present = self.rollouts.get(rollout.id)
                assert rollout.meta.version == (present.meta.version if present else 0)
                self.rollouts[rollout.id] = replace(rollout, meta=replace(rollout.meta, version=self._bump()))
            case RollBack(service):
                assert self.services[service.id].meta.version == service.meta.version
                self.services[service.id] = replace(service, meta=replace(service.meta, version=self._bump()))

    # --- looking ---

    def state(self, task: Task) -> TaskState:
        status = self.statuses.get(task.id)
        return task.state if status is None else max(task.state, status.state)

    def of(self, service_id: str = "web") -> list[Task]:
        """The service's tasks, oldest first."""
        found = [task for task in self.tasks.values() if task.service_id == service_id]
        return sorted(found, key=lambda task: (task.meta.created_at_ns, task.slot, task.id))

    def live(self, service_id: str = "web") -> list[Task]:
        """The service's tasks that are to run and have not ended, by slot."""
        found = [
            task
            for task in self.of(service_id)
            if task.desired_state < TaskState.SHUTDOWN and not self.state(task).finished
        ]
        return sorted(found, key=lambda task: task.slot)

    def running(self, service_id: str = "web") -> list[Task]:
        """The live tasks that are observed running."""
        return [task for task in self.live(service_id) if self.state(task) is TaskState.RUNNING]

    def where(self, service_id: str = "web") -> dict[int, str]:
        """The node of each live task, by slot."""
        return {task.slot: task.node_id for task in self.live(service_id)}

    def new_id(self) -> str:
        self._ids += 1
        return f"task-{self._ids:05}"

    def _bump(self) -> int:
        self.revision += 1
        return self.revision

    def _meta(self) -> Meta:
        return Meta(self._bump(), self.now_ns, self.now_ns)
