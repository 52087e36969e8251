"""From an assigned task to the container that runs it: names and labels are Swarm's, so that its tools find them."""

from __future__ import annotations

from collections.abc import Iterable

from minicommon.units import parse_bytes
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent.statuses import host_port
from miniworker.network.api import HostPort
from miniworker.runtime.api import (
    KEEP_ALL,
    NO_HEALTH_CHECK,
    ContainerConfig,
    Device,
    HealthCheck,
    Limits,
    LogLimits,
    Mount,
    MountKind,
    Ulimit,
)

LABEL_PREFIX = "com.docker.swarm."
"""moby `daemon/cluster/executor/container/container.go`."""

TASK_ID_LABEL = LABEL_PREFIX + "task.id"

RESOURCE_PREFIX = "DOCKER_RESOURCE_"

DEFAULT_STOP_GRACE_NS = 10_000_000_000
"""Swarm's default stop grace period: 10 s."""


def container_config(task: dispatch.AssignedTask, *, node_id: str) -> ContainerConfig:
    """What the runtime is to create; the hooks add what they prepare."""
    spec = task.spec.container
    limits = task.spec.resources.limits
    return ContainerConfig(
        id=task.id,
        name=container_name(task),
        image=spec.image,
        command=tuple(spec.command),
        args=tuple(spec.args),
        env=(*spec.env, *resource_variables(task.resources)),
        hostname=spec.hostname,
        user=spec.user,
        groups=tuple(spec.groups),
        dir=spec.dir,
        labels={**spec.labels, **_swarm_labels(task, node_id)},
        read_only=spec.read_only,
        cap_add=tuple(spec.cap_add),
        cap_drop=tuple(spec.cap_drop),
        stop_signal=spec.stop_signal,
        stop_grace_period_ns=spec.stop_grace_period_ns or DEFAULT_STOP_GRACE_NS,
        limits=Limits(
            nano_cpus=limits.nano_cpus,
            memory_bytes=limits.memory_bytes,
            pids=limits.pids,
            swap_bytes=limits.swap_bytes,
            swappiness=limits.swappiness.percent if limits.HasField("swappiness") else -1,
        ),
        hosts=tuple((entry.address, entry.name) for entry in spec.hosts),
        dns=tuple(spec.dns.nameservers),
        dns_search=tuple(spec.dns.search),
        dns_options=tuple(spec.dns.options),
        init=spec.init,
        tty=spec.tty,
        sysctls=dict(spec.sysctls),
        ulimits=tuple(Ulimit(item.name, item.soft, item.hard) for item in spec.ulimits),
        shm_bytes=spec.shm_size_bytes,
        oom_score_adj=spec.oom_score_adj,
        mounts=tuple(_mount(item) for item in spec.mounts),
        health=health_check(spec.health),
        privileged=spec.privileged,
        devices=tuple(Device(item.source, item.target, item.permissions) for item in spec.devices),
        host_pid=spec.host_pid,
        seccomp_unconfined=spec.seccomp_unconfined,
        no_new_privileges=spec.no_new_privileges,
        open_stdin=spec.open_stdin,
        logs=_logs(task.spec.log_driver),
    )


def resource_variables(resources: Iterable[pb.GenericResource]) -> tuple[str, ...]:
    """`DOCKER_RESOURCE_GPU=UUID1,UUID2`, `DOCKER_RESOURCE_SSD=3` (swarmkit `api/genericresource/string.go`)."""
    return tuple(
        f"{RESOURCE_PREFIX}{each.kind.upper()}={','.join(each.ids) or each.count}" for each in resources
    )


_LOCAL = {"max-size": "20m", "max-file": "5", "compress": "true"}
"""Docker's defaults of the driver `local`."""


def _logs(driver: pb.LogDriver) -> LogLimits:
    name = driver.name or "json-file"
    options = {**(_LOCAL if name == "local" else {}), **driver.options}
    if name == "local" and options["max-file"] == "1":
        options["compress"] = "false"  # there is never a file that is full
    return LogLimits(
        keep=name != "none",
        max_bytes=parse_bytes(options["max-size"]) if "max-size" in options else 0,
        files=int(options.get("max-file", "1")),
        compress=options.get("compress") == "true",
        driver=name if name != "none" else KEEP_ALL.driver,
    )


def health_check(health: pb.HealthCheck) -> HealthCheck:
    """A check as the specification has it."""
    return HealthCheck(
        test=tuple(health.test),
        interval_ns=health.interval_ns,
        timeout_ns=health.timeout_ns,
        retries=health.retries,
        start_period_ns=health.start_period_ns,
        start_interval_ns=health.start_interval_ns,
    )


_MOUNT_KINDS = {
    pb.MOUNT_TYPE_VOLUME: MountKind.VOLUME,
    pb.MOUNT_TYPE_BIND: MountKind.BIND,
    pb.MOUNT_TYPE_TMPFS: MountKind.TMPFS,
}


def _mount(mount: pb.Mount) -> Mount:
    return Mount(
        kind=_MOUNT_KINDS[mount.type],
        target=mount.target,
        source=mount.source,
        read_only=mount.read_only,
        propagation=mount.propagation,
        recursive=not mount.non_recursive,
        copy=not mount.no_copy,
        size_bytes=mount.size_bytes,
        mode=mount.mode,
    )


def container_name(task: dispatch.AssignedTask) -> str:
    """`<service>.<slot>.<task id>`."""
    return f"{task.name}.{task.id}"


def container_hostname(config: ContainerConfig) -> str:
    """The name that the container has for itself."""
    return config.hostname or config.id[:12]


def readiness(task: dispatch.AssignedTask) -> HealthCheck | None:
    """What says whether the task gets traffic; None: nothing does. An image has no such check."""
    return health_check(task.spec.container.ready).over(NO_HEALTH_CHECK)


def host_ports(task: dispatch.AssignedTask) -> tuple[HostPort, ...]:
    """The ports that the task publishes on this node alone."""
    return tuple(host_port(port) for port in task.ports if port.publish_mode == pb.PUBLISH_MODE_HOST)


def _swarm_labels(task: dispatch.AssignedTask, node_id: str) -> dict[str, str]:
    return {
        LABEL_PREFIX + "task": "",
        TASK_ID_LABEL: task.id,
        LABEL_PREFIX + "task.name": container_name(task),
        LABEL_PREFIX + "node.id": node_id,
        LABEL_PREFIX + "service.id": task.service_id,
        LABEL_PREFIX + "service.name": task.service_name,
    }
