"""The cluster, its nodes, and who may come in; `minimanager.domain.objects` has them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from minimanager.domain.meta import HOUR, SECOND, Meta
from minimanager.domain.meta import no_labels as _labels

# --- cluster ---


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    name: str = "default"
    labels: Mapping[str, str] = field(default_factory=_labels)
    task_history_limit: int = 5
    """Finished tasks kept per slot; negative keeps all (SwarmKit's default: 5)."""
    heartbeat_period_ns: int = 2 * SECOND
    """SwarmKit's default is 5 s; with ours a silent node is DOWN after 6 s."""
    certificate_lifetime_ns: int = 2160 * HOUR
    """90 days, SwarmKit's default; at least 1 h."""
    autolock: bool = False
    """Managers need the unlock key after a restart."""
    ledger_age_ns: int = 0
    """How long records of deliveries are kept; 0: 90 days."""
    ledger_records: int = 0
    """How many of them are kept; 0: 50,000."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    sealed: bytes = b""
    expires_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class RemovedNode:
    """No longer in the cluster, but its certificate is still valid."""

    id: str = ""
    expires_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class RootRotation:
    """A change of the root that goes on until every node has a certificate of the new one; empty: none."""

    root_ca_pem: bytes = b""
    sealed_root_key: bytes = b""
    cross_signed_pem: bytes = b""
    """The new root's key, certified by the old root: who trusts only the old one trusts the new one's certificates."""
    started_at_ns: int = 0
    issuer: str = ""
    """Identifier, hex, of the new root's key."""

    @property
    def active(self) -> bool:
        return bool(self.root_ca_pem)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Written by the API."""

    id: str
    meta: Meta = Meta()
    spec: ClusterSpec = ClusterSpec()
    root_ca_pem: bytes = b""
    sealed_root_key: bytes = b""
    worker_token: JoinToken = JoinToken()
    manager_token: JoinToken = JoinToken()
    default_address_pools: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    removed_nodes: tuple[RemovedNode, ...] = ()
    sealed_unlock_key: bytes = b""
    key_id: int = 0
    """Of the cluster key that values are sealed with."""
    sealed_next_key: bytes = b""
    """While the cluster key changes: the next one, sealed with the present one."""
    root_rotation: RootRotation = RootRotation()
    next_key_id: int = 0
    """Of the key in `sealed_next_key`; equal to `key_id` once values are sealed with it."""
    sealed_former_unlock_key: bytes = b""
    """Opens managers, too, until somebody has confirmed to have the present one."""
    unlock_key_pending: bool = False
    """Nobody has confirmed yet to have any unlock key: disks stay open."""


# --- nodes ---


class NodeRole(IntEnum):
    WORKER = 0
    MANAGER = 1


class Availability(IntEnum):
    ACTIVE = 0
    PAUSE = 1
    DRAIN = 2


class NodeState(IntEnum):
    UNKNOWN = 0
    DOWN = 1
    READY = 2
    DISCONNECTED = 3


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=_labels)
    role: NodeRole = NodeRole.WORKER
    availability: Availability = Availability.ACTIVE


@dataclass(frozen=True, slots=True)
class Node:
    """Written by the API and the CA; `ingress_address` is given when the node joins."""

    id: str
    meta: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    ingress_address: str = ""
    certificate_expires_at_ns: int = 0
    """Of the newest certificate that it was given; 0: not known."""


@dataclass(frozen=True, slots=True)
class NodeResources:
    nano_cpus: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GenericResource:
    """Something that a node has so many of, or these by name; and what a task reserves or has got of it."""

    kind: str = ""
    ids: tuple[str, ...] = ()
    count: int = 0
    """Of one without names, and in a reservation."""

    @property
    def amount(self) -> int:
        """How many, named or not."""
        return len(self.ids) or self.count


@dataclass(frozen=True, slots=True)
class NodeDescription:
    hostname: str = ""
    os: str = ""
    architecture: str = ""
    resources: NodeResources = NodeResources()
    engine_version: str = ""
    runtime: str = ""
    runtime_version: str = ""
    engine_labels: Mapping[str, str] = field(default_factory=_labels)
    generic_resources: tuple[GenericResource, ...] = ()
    allowed: tuple[str, ...] = ()
    """What containers may have of the node (`minicommon.grants`)."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Written by the manager that holds the node's session; by the leader when none does."""

    id: str
    meta: Meta = Meta()
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    description: NodeDescription = NodeDescription()
    address: str = ""
    session_manager: str = ""
    since_ns: int = 0
    manager_address: str = ""
    encryption_key: str = ""
    next_encryption_key: str = ""
    certificate_issuer: str = ""
    """Key identifier, hex, of the root that signed the certificate it uses."""
    trusted_roots: str = ""
    """SHA-256, hex, of the PEM text of the roots that it trusts."""
    losses: int = 0
    """How many times in a row it was DOWN soon after it had come back."""


# --- who may come in ---


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A join token of limited use, written by the API and, with each node that joins, by the CA."""

    id: str
    meta: Meta = Meta()
    role: NodeRole = NodeRole.WORKER
    label: str = ""
    secret_sha256: str = ""
    root_digest: str = ""
    expires_at_ns: int = 0
    max_uses: int = 0
    uses: int = 0
    revoked_at_ns: int = 0


class ClientRole(IntEnum):
    VIEWER = 0
    OPERATOR = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Of a person or a program; `id` is its serial number in base 36."""

    id: str
    meta: Meta = Meta()
    name: str = ""
    role: ClientRole = ClientRole.VIEWER
    expires_at_ns: int = 0
    revoked_at_ns: int = 0
    issuer: str = ""
