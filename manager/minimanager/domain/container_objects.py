"""What a task runs: its container, resources and restarts; `minimanager.domain.objects` has them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from minimanager.domain.cluster_objects import GenericResource
from minimanager.domain.meta import SECOND
from minimanager.domain.meta import no_labels as _labels
from minimanager.domain.secret_objects import ConfigUse, SecretUse


class RestartCondition(IntEnum):
    ANY = 0
    ON_FAILURE = 1
    NONE = 2


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """SwarmKit's defaults (`api/defaults/service.go`)."""

    condition: RestartCondition = RestartCondition.ANY
    delay_ns: int = 5 * SECOND
    max_attempts: int = 0
    window_ns: int = 0


@dataclass(frozen=True, slots=True)
class Swappiness:
    """How readily the kernel swaps a container out."""

    percent: int = -1
    """0 to 100; -1: the node's own setting (Docker's default)."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    swap_bytes: int = 0
    swappiness: Swappiness = Swappiness()


@dataclass(frozen=True, slots=True)
class ResourceReservations:
    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: tuple[GenericResource, ...] = ()
    """By kind and count."""


@dataclass(frozen=True, slots=True)
class Resources:
    limits: ResourceLimits = ResourceLimits()
    reservations: ResourceReservations = ResourceReservations()


@dataclass(frozen=True, slots=True)
class Ulimit:
    name: str = ""
    soft: int = 0
    hard: int = 0


@dataclass(frozen=True, slots=True)
class HostEntry:
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class DnsConfig:
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class MountType(IntEnum):
    VOLUME = 0
    BIND = 1
    TMPFS = 2


@dataclass(frozen=True, slots=True)
class Mount:
    type: MountType = MountType.VOLUME
    source: str = ""
    target: str = ""
    read_only: bool = False
    propagation: str = ""
    non_recursive: bool = False
    no_copy: bool = False
    size_bytes: int = 0
    mode: int = 0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What is empty or 0 is the image's, else Docker's default."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    retries: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    source: str = ""
    target: str = ""
    permissions: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=_labels)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    hostname: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    dir: str = ""
    stop_signal: str = ""
    stop_grace_period_ns: int = 10 * SECOND
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    init: bool = False
    tty: bool = False
    sysctls: Mapping[str, str] = field(default_factory=_labels)
    ulimits: tuple[Ulimit, ...] = ()
    hosts: tuple[HostEntry, ...] = ()
    dns: DnsConfig = DnsConfig()
    shm_size_bytes: int = 0
    oom_score_adj: int = 0
    mounts: tuple[Mount, ...] = ()
    health: HealthCheck = HealthCheck()
    privileged: bool = False
    devices: tuple[Device, ...] = ()
    host_pid: bool = False
    seccomp_unconfined: bool = False
    no_new_privileges: bool = False
    open_stdin: bool = False
    ready: HealthCheck = HealthCheck()
    drain_timeout_ns: int = 0
    """0: the node's default, 2 s; -1: none."""
    secrets: tuple[SecretUse, ...] = ()
    configs: tuple[ConfigUse, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkUse:
    network: str = ""
    """In the store the network's id."""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogDriver:
    """Where a container's output goes: "json-file", as when the name is empty, or "none"."""

    name: str = ""
    options: Mapping[str, str] = field(default_factory=_labels)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    container: ContainerSpec = ContainerSpec()
    resources: Resources = Resources()
    restart: RestartPolicy = RestartPolicy()
    force_update: int = 0
    networks: tuple[NetworkUse, ...] = ()
    log_driver: LogDriver = LogDriver()
    disconnect_stop_ns: int = 0
    """How long it runs on a node that has no manager; 0: for ever."""
