"""What the Engine is told of a container. A pure function of its configuration.

What the Engine has no word for is in one label of ours (`Record`): the task's id, the name and the labels it was given
(the Engine adds the image's), its grace period, its health check. Health is checked by the agent, so the Engine's own
checks are switched off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from miniworker.runtime.api import ContainerConfig, HealthCheck, Limits, LogLimits, Mount, MountKind
from miniworker.runtime.oci.etcfiles import hostname

OWNER = "io.minicluster.owner"
"""The label that tells whose a container is: the worker's data directory."""

TASK = "io.minicluster.task"
"""The label with the task's id."""

RECORD = "io.minicluster.record"

ETC = ("hosts", "hostname", "resolv.conf")
"""Files of /etc that we write: with the words of the other runtime, and the Engine knows our names' server not."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""What the Engine takes as a container's name."""

_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""The Engine sets these only in namespaces of its own."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a container beyond what the Engine keeps."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_grace_period_ns: int = 0
    health: HealthCheck | None = None
    netns: str = ""
    """Empty: the Engine made it one."""
    keeps_logs: bool = True
    hostname: str = ""

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Record:
        raw = json.loads(text)
        if health := raw.get("health"):
            raw["health"] = HealthCheck(**{**health, "test": tuple(health["test"])})
        return cls(**raw)


def record_of(config: ContainerConfig, image_health: HealthCheck) -> Record:
    return Record(
        id=config.id,
        name=config.name,
        image=config.image,
        labels=dict(config.labels),
        stop_grace_period_ns=config.stop_grace_period_ns,
        health=config.health.over(image_health),
        netns=str(config.netns or ""),
        keeps_logs=config.logs.keep,
        hostname=hostname(config),
    )


def container_name(config: ContainerConfig) -> str:
    """Swarm's, where the Engine can take it."""
    return config.name if _NAME.fullmatch(config.name) else config.id


def handle_name(task_id: str) -> str:
    """Of the container that stands for the task's namespace while the task's is started."""
    return f"mini-netns-{task_id}"


def container(config: ContainerConfig, record: Record, *, owner: str, etc: Path) -> dict[str, Any]:
    """The body of /containers/create; `etc` is the folder with the files of ETC."""
    return {
        **_program(config),
        "Image": config.image,
        # One that joins another's network has that one's host name.
        **({} if config.netns else {"Hostname": record.hostname}),
        "User": config.user,
        "Env": list(config.env),
        "WorkingDir": config.dir,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.open_stdin,
        **({"StopSignal": config.stop_signal} if config.stop_signal else {}),
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**config.labels, OWNER: owner, TASK: config.id, RECORD: record.text()},
        "HostConfig": _host_config(config, etc),
    }


def _program(config: ContainerConfig) -> dict[str, Any]:
    """A command of the service replaces both of the image's, as in Swarm."""
    if config.command:
        return {"Entrypoint": list(config.command), "Cmd": list(config.args)}
    return {"Cmd": list(config.args)} if config.args else {}


def _host_config(config: ContainerConfig, etc: Path) -> dict[str, Any]:
    return {
        "NetworkMode": f"container:{handle_name(config.id)}" if config.netns else "none",
        "RestartPolicy": {"Name": "no"},
        "Mounts": [*_etc(config, etc), *(_mount(item) for item in config.mounts)],
        "LogConfig": _logs(config.logs),
        "CapAdd": list(config.cap_add),
        "CapDrop": list(config.cap_drop),
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": _security(config),
        "PidMode": "host" if config.host_pid else "",
        "GroupAdd": list(config.groups),
        "Init": config.init,
        "Sysctls": {**_SYSCTLS, **config.sysctls},
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in config.ulimits],
        "OomScoreAdj": config.oom_score_adj,
        "Devices": [
            {
                "PathOnHost": each.source,
                "PathInContainer": each.target,
                "CgroupPermissions": each.permissions,
            }
            for each in config.devices
        ],
        **({"ShmSize": config.shm_bytes} if config.shm_bytes else {}),
        **_limits(config.limits),
    }


def _etc(config: ContainerConfig, etc: Path) -> list[dict[str, Any]]:
    """But for those that the service puts its own in the place of."""
    taken = {item.target.rstrip("/") for item in config.mounts}
    return [
        {
            "Type": "bind",
            "Source": str(etc / name),
            "Target": f"/etc/{name}",
            "ReadOnly": config.read_only,
        }
        for name in ETC
        if f"/etc/{name}" not in taken
    ]


def _mount(item: Mount) -> dict[str, Any]:
    found: dict[str, Any] = {"Type": item.kind.value, "Target": item.target, "ReadOnly": item.read_only}
    if item.kind is MountKind.BIND:
        options = {"Propagation": item.propagation or "rprivate", "NonRecursive": not item.recursive}
        return {**found, "Source": item.source, "BindOptions": options}
    if item.kind is MountKind.VOLUME:
        return {**found, "Source": item.source, "VolumeOptions": {"NoCopy": not item.copy}}
    options = {"SizeBytes": item.size_bytes} if item.size_bytes else {}
    return {**found, "TmpfsOptions": {**options, "Mode": item.mode or 0o1777}}


def _logs(limits: LogLimits) -> dict[str, Any]:
    if not limits.keep:
        return {"Type": "none", "Config": {}}
    options = {
        **({"max-size": str(limits.max_bytes)} if limits.max_bytes else {}),
        **({"max-file": str(limits.files)} if limits.files > 1 else {}),
        **({"compress": "true"} if limits.compress else {}),
    }
    if limits.driver == "local":
        options |= {"max-file": str(limits.files), "compress": str(limits.compress).lower()}
    return {"Type": limits.driver, "Config": options}


def _security(config: ContainerConfig) -> list[str]:
    return [
        *(["seccomp=unconfined"] if config.seccomp_unconfined else []),
        *(["no-new-privileges"] if config.no_new_privileges else []),
    ]


def _limits(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {"NanoCpus": limits.nano_cpus, "Memory": limits.memory_bytes}
    if limits.memory_bytes and limits.swap_bytes:  # the Engine wants both together
        found["MemorySwap"] = -1 if limits.swap_bytes < 0 else limits.memory_bytes + limits.swap_bytes
    if limits.swappiness >= 0:
        found["MemorySwappiness"] = limits.swappiness
    if limits.pids:
        found["PidsLimit"] = limits.pids
    return found
