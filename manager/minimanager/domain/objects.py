"""The cluster's objects, as immutable values.

They mirror `miniproto/v1/objects.proto` field by field (a test compares the two), so that the pure packages need no
protobuf. Times are nanoseconds since the Unix epoch and durations nanoseconds: `_ns` says so. `meta.version` is the
etcd revision of the last change; it is 0 in an object that was not read from the store.

One writer per key: each class says who writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from minimanager.domain.cluster_objects import Availability as Availability
from minimanager.domain.cluster_objects import ClientCertificate as ClientCertificate
from minimanager.domain.cluster_objects import ClientRole as ClientRole
from minimanager.domain.cluster_objects import Cluster as Cluster
from minimanager.domain.cluster_objects import ClusterSpec as ClusterSpec
from minimanager.domain.cluster_objects import GenericResource as GenericResource
from minimanager.domain.cluster_objects import IssuedToken as IssuedToken
from minimanager.domain.cluster_objects import JoinToken as JoinToken
from minimanager.domain.cluster_objects import Node as Node
from minimanager.domain.cluster_objects import NodeDescription as NodeDescription
from minimanager.domain.cluster_objects import NodeResources as NodeResources
from minimanager.domain.cluster_objects import NodeRole as NodeRole
from minimanager.domain.cluster_objects import NodeSpec as NodeSpec
from minimanager.domain.cluster_objects import NodeState as NodeState
from minimanager.domain.cluster_objects import NodeStatus as NodeStatus
from minimanager.domain.cluster_objects import RemovedNode as RemovedNode
from minimanager.domain.cluster_objects import RootRotation as RootRotation
from minimanager.domain.container_objects import ContainerSpec as ContainerSpec
from minimanager.domain.container_objects import Device as Device
from minimanager.domain.container_objects import DnsConfig as DnsConfig
from minimanager.domain.container_objects import HealthCheck as HealthCheck
from minimanager.domain.container_objects import HostEntry as HostEntry
from minimanager.domain.container_objects import LogDriver as LogDriver
from minimanager.domain.container_objects import Mount as Mount
from minimanager.domain.container_objects import MountType as MountType
from minimanager.domain.container_objects import NetworkUse as NetworkUse
from minimanager.domain.container_objects import ResourceLimits as ResourceLimits
from minimanager.domain.container_objects import ResourceReservations as ResourceReservations
from minimanager.domain.container_objects import Resources as Resources
from minimanager.domain.container_objects import RestartCondition as RestartCondition
from minimanager.domain.container_objects import RestartPolicy as RestartPolicy
from minimanager.domain.container_objects import Swappiness as Swappiness
from minimanager.domain.container_objects import TaskSpec as TaskSpec
from minimanager.domain.container_objects import Ulimit as Ulimit
from minimanager.domain.meta import HOUR as HOUR
from minimanager.domain.meta import SECOND as SECOND
from minimanager.domain.meta import Meta as Meta
from minimanager.domain.meta import no_labels as _labels
from minimanager.domain.secret_objects import Config as Config
from minimanager.domain.secret_objects import ConfigSpec as ConfigSpec
from minimanager.domain.secret_objects import ConfigUse as ConfigUse
from minimanager.domain.secret_objects import FileTarget as FileTarget
from minimanager.domain.secret_objects import RotationState as RotationState
from minimanager.domain.secret_objects import Secret as Secret
from minimanager.domain.secret_objects import SecretRotation as SecretRotation
from minimanager.domain.secret_objects import SecretSpec as SecretSpec
from minimanager.domain.secret_objects import SecretUse as SecretUse
from minimanager.domain.secret_objects import SecretVersion as SecretVersion

# --- services and tasks ---


class ServiceMode(IntEnum):
    REPLICATED = 0
    GLOBAL = 1
    REPLICATED_JOB = 2
    GLOBAL_JOB = 3

    @property
    def is_job(self) -> bool:
        """Whether its tasks are to end, and are done then."""
        return self in (ServiceMode.REPLICATED_JOB, ServiceMode.GLOBAL_JOB)

    @property
    def is_global(self) -> bool:
        """Whether every node that may have one gets one task."""
        return self in (ServiceMode.GLOBAL, ServiceMode.GLOBAL_JOB)


class PortProtocol(IntEnum):
    TCP = 0
    UDP = 1


class PublishMode(IntEnum):
    INGRESS = 0
    HOST = 1


class PortLocality(IntEnum):
    ANY = 0
    PREFER = 1
    ONLY = 2


@dataclass(frozen=True, slots=True)
class PortConfig:
    protocol: PortProtocol = PortProtocol.TCP
    target_port: int = 0
    published_port: int = 0
    publish_mode: PublishMode = PublishMode.INGRESS
    host_ip: str = ""
    locality: PortLocality = PortLocality.ANY
    sticky: bool = False
    proxy_protocol: int = 0


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image is made for; what is empty may be any."""

    os: str = ""
    architecture: str = ""
    """As images or `uname -m` name it."""


class PlacementStrategy(IntEnum):
    SPREAD = 0
    BINPACK = 1


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes may have a service's tasks, and which of them do.

    Not part of a task: a change moves only tasks that no longer fit where they are.
    """

    constraints: tuple[str, ...] = ()
    spread_over: tuple[str, ...] = ()
    max_replicas: int = 0
    """Per node; 0: no limit."""
    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    affinity: tuple[str, ...] = ()
    """Names of services: only where a task of each of them is to run."""
    anti_affinity: tuple[str, ...] = ()
    """Names of services: not where a task of one of them is, and neither they where a task of this one is."""
    platforms: tuple[Platform, ...] = ()
    """A node must be of one of them; none: of any."""


class UpdateOrder(IntEnum):
    STOP_FIRST = 0
    START_FIRST = 1


class FailureAction(IntEnum):
    PAUSE = 0
    CONTINUE = 1
    ROLLBACK = 2


DEFAULT_MONITOR_NS = 5 * SECOND
"""SwarmKit's default (`api/defaults/service.go`)."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """How tasks are replaced; SwarmKit's defaults (`api/defaults/service.go`), and a deadline, which it lacks."""

    parallelism: int = 1
    """Slots at a time; 0: all."""
    delay_ns: int = 0
    failure_action: FailureAction = FailureAction.PAUSE
    monitor_ns: int = DEFAULT_MONITOR_NS
    """0: the default, as in Docker, whose API leaves a 0 out."""
    max_failure_millionths: int = 0
    order: UpdateOrder = UpdateOrder.STOP_FIRST
    progress_deadline_ns: int = 600 * SECOND
    """0: none."""


class EndpointMode(IntEnum):
    VIP = 0
    DNSRR = 1


@dataclass(frozen=True, slots=True)
class VirtualAddress:
    network_id: str = ""
    address: str = ""


class DependencyCondition(IntEnum):
    STARTED = 0
    HEALTHY = 1
    COMPLETED = 2


@dataclass(frozen=True, slots=True)
class Dependency:
    """What the service of this name must have come to before tasks of another start."""

    service: str = ""
    condition: DependencyCondition = DependencyCondition.STARTED


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """How to log in to a registry. Only ever on its way to a node, never stored in clear."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"RegistryAuth({self.username!r}, ...)"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=_labels)
    mode: ServiceMode = ServiceMode.REPLICATED
    replicas: int = 1
    task: TaskSpec = TaskSpec()
    ports: tuple[PortConfig, ...] = ()
    placement: Placement = Placement()
    max_concurrent: int = 0
    """Tasks of a replicated job that run at once; 0: all of them."""
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig()
    endpoint_mode: EndpointMode = EndpointMode.VIP
    depends_on: tuple[Dependency, ...] = ()


@dataclass(frozen=True, slots=True)
class Revision:
    """A specification that the service has had."""

    number: int = 0
    spec_version: int = 0
    created_at_ns: int = 0
    spec: ServiceSpec = ServiceSpec()


@dataclass(frozen=True, slots=True)
class Service:
    """Written by the API; the leader rolls back what failed, and removes it once `removing` and without tasks."""

    id: str
    meta: Meta = Meta()
    spec: ServiceSpec = ServiceSpec()
    spec_version: int = 1
    ports: tuple[PortConfig, ...] = ()
    removing: bool = False
    revision: int = 1
    revised_at_ns: int = 0
    revisions: tuple[Revision, ...] = ()
    update_number: int = 0
    rolling_back: bool = False
    update_paused: bool = False
    virtual_addresses: tuple[VirtualAddress, ...] = ()
    """One per network of the task template, in vip mode."""
    sealed_registry_auth: bytes = b""
    """A `RegistryAuth` for its image's registry, encrypted with the cluster key."""


class RolloutState(IntEnum):
    """Swarm's update states; a service that was never updated has no rollout."""

    UPDATING = 0
    PAUSED = 1
    COMPLETED = 2
    ROLLBACK_STARTED = 3
    ROLLBACK_PAUSED = 4
    ROLLBACK_COMPLETED = 5

    @property
    def active(self) -> bool:
        """Whether tasks are being replaced."""
        return self in (RolloutState.UPDATING, RolloutState.ROLLBACK_STARTED)

    @property
    def completed(self) -> bool:
        return self in (RolloutState.COMPLETED, RolloutState.ROLLBACK_COMPLETED)


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far the replacement of a service's tasks has come. Written by the leader's loops."""

    id: str
    meta: Meta = Meta()
    update_number: int = 0
    state: RolloutState = RolloutState.UPDATING
    started_at_ns: int = 0
    completed_at_ns: int = 0
    message: str = ""
    slots: int = 0
    failed: tuple[str, ...] = ()
    outdated: int = 0
    progressed_at_ns: int = 0
    timed_out: bool = False
    running: int = 0


class TaskState(IntEnum):
    """Swarm's task states (swarmkit `api/types.proto`); an observed state only grows."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def finished(self) -> bool:
        """Whether a task in this state has ended for good."""
        return self > TaskState.RUNNING


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    network_id: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """Written by the leader's loops. What the node observed is in `TaskStatus`, under a key of its own."""

    id: str
    meta: Meta = Meta()
    service_id: str = ""
    service_name: str = ""
    slot: int = 0
    node_id: str = ""
    spec: TaskSpec = TaskSpec()
    spec_version: int = 0
    desired_state: TaskState = TaskState.RUNNING
    state: TaskState = TaskState.NEW
    state_since_ns: int = 0
    message: str = ""
    error: str = ""
    attachments: tuple[NetworkAttachment, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    not_before_ns: int = 0
    bound_node_id: str = ""
    """The only node that may have it, which is its place in a global service; its slot is 0 then."""
    failures: int = 0
    """How many tries before it, one right after the other, ended soon."""
    held: bool = False
    """No node gets it before the delay is over: the last try could not even be prepared."""
    resources: tuple[GenericResource, ...] = ()
    """Of its node's, what it alone has while it has not ended."""

    @property
    def place(self) -> int | str:
        """What it has alone in its service: its slot, or its node in a global one."""
        return self.bound_node_id or self.slot

    @property
    def name(self) -> str:
        """`<service>.<slot>`, or `<service>.<node id>` of a global one, as `service ps` shows it."""
        return f"{self.service_name}.{self.place}"


@dataclass(frozen=True, slots=True)
class TaskStop:
    """How a task that may have had traffic was stopped, by its node's clock."""

    told_at_ns: int = 0
    withdrawn_at_ns: int = 0
    drained_at_ns: int = 0
    unacknowledged: bool = False
    open_connections: int = 0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Written by the manager that holds the node's session."""

    id: str
    meta: Meta = Meta()
    state: TaskState = TaskState.NEW
    state_since_ns: int = 0
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    host_ports: tuple[PortConfig, ...] = ()
    node_id: str = ""
    unhealthy: bool = False
    running_since_ns: int = 0
    not_ready: bool = False
    stop: TaskStop = TaskStop()


# --- networks ---


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=_labels)
    driver: str = "overlay"
    ingress: bool = False
    mtu: int = 1450
    attachable: bool = False
    internal: bool = False
    encrypted: bool = False
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    options: Mapping[str, str] = field(default_factory=_labels)


@dataclass(frozen=True, slots=True)
class Network:
    """Written by the API."""

    id: str
    meta: Meta = Meta()
    spec: NetworkSpec = NetworkSpec()
    subnet: str = ""
    gateway: str = ""
    vni: int = 0
    removing: bool = False
    """No task may join it; it goes with the last address on it."""


Object = (
    Cluster
    | Node
    | NodeStatus
    | Service
    | Rollout
    | Task
    | TaskStatus
    | Network
    | Secret
    | Config
    | IssuedToken
    | ClientCertificate
)
"""Everything that has a key of its own in the store."""
