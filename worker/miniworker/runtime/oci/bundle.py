"""config.json: what runc is told. A pure function of the container, its image and who it runs as.

The values are those Docker uses (moby `daemon/pkg/oci/defaults.go`), so that an image finds what it finds there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from miniworker.runtime.api import ContainerConfig, RuntimeFaultError, Ulimit
from miniworker.runtime.interactive import Command
from miniworker.runtime.oci import capabilities, cgroups, devices, etcfiles, seccomp
from miniworker.runtime.oci.manifest import ImageConfig
from miniworker.runtime.oci.mounts import OciMount, bind, mount
from miniworker.runtime.oci.records import ContainerFiles
from miniworker.runtime.oci.users import Identity

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SHM_BYTES = 64 << 20
"""Docker's default size of /dev/shm."""

INIT_PATH = "/sbin/docker-init"
"""Where Docker puts the init of a container that asked for one."""

_ANY_DEVICE = {"allow": True, "access": "rwm"}
_NO_LIMIT = (1 << 64) - 1
"""RLIM_INFINITY."""

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Any user may bind port 80 and ping: the namespace is the container's own."""


def build(
    config: ContainerConfig,
    image: ImageConfig,
    identity: Identity,
    *,
    files: ContainerFiles,
    unified: bool,
    own_mounts: Sequence[OciMount] = (),
) -> dict[str, Any]:
    """The whole document. Raises RuntimeFaultError for what no container can be."""
    held = _held(config)
    given = devices.everything() if config.privileged else config.devices
    rules = [_ANY_DEVICE] if config.privileged else devices.rules(given)
    confined = not (config.privileged or config.seccomp_unconfined)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": config.tty,
            "user": _user(identity),
            "args": list(arguments(config, image)),
            "env": list(environment(config, image, identity)),
            "cwd": _absolute(config.dir or image.dir or "/"),
            "capabilities": _capabilities(held, identity),
            "noNewPrivileges": config.no_new_privileges,
            "rlimits": [_rlimit(ulimit) for ulimit in config.ulimits],
            **({"oomScoreAdj": config.oom_score_adj} if config.oom_score_adj else {}),
        },
        "root": {"path": str(files.rootfs), "readonly": config.read_only},
        "hostname": etcfiles.hostname(config),
        "mounts": _mounts(config, files, own_mounts, unified=unified),
        "linux": {
            "namespaces": _namespaces(config, unified=unified),
            "cgroupsPath": cgroups.path_of(config.id),
            "resources": cgroups.resources(config.limits, devices=rules, unified=unified),
            "devices": devices.nodes(given),
            "sysctl": {**_SYSCTLS, **config.sysctls},
            **({"seccomp": seccomp.profile(held)} if confined else {}),
            "maskedPaths": [] if config.privileged else list(_MASKED),
            "readonlyPaths": [] if config.privileged else list(_READ_ONLY),
        },
    }


def command_process(
    process: Mapping[str, Any], command: Command, identity: Identity | None
) -> dict[str, Any]:
    """The `process` of a command in a container, from that of the container's own; no identity: the same user."""
    values = dict(entry.partition("=")[::2] for entry in process["env"])
    if command.tty:
        values["TERM"] = "xterm"
    if identity is not None:
        values["HOME"] = identity.home
    values.update(dict(entry.partition("=")[::2] for entry in command.env))
    result = {
        **process,
        "terminal": command.tty,
        "args": list(command.words),
        "env": [f"{key}={value}" for key, value in values.items()],
        "cwd": _absolute(command.dir) if command.dir else process["cwd"],
    }
    if identity is not None:
        held = tuple(process["capabilities"]["bounding"])
        result["user"] = _user(identity)
        result["capabilities"] = _capabilities(held, identity)
    return result


def _user(identity: Identity) -> dict[str, Any]:
    return {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)}


def arguments(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """Entrypoint, then command. A command of the service replaces both of the image's, as in Swarm."""
    words = (
        (*config.command, *config.args)
        if config.command
        else (*image.entrypoint, *(config.args or image.command))
    )
    if not words:
        raise RuntimeFaultError(
            f"no command specified: neither the service nor the image {config.image} has one"
        )
    return (INIT_PATH, "--", *words) if config.init else words


def environment(config: ContainerConfig, image: ImageConfig, identity: Identity) -> tuple[str, ...]:
    """PATH and HOSTNAME, the image's, the service's over it; HOME last, where nobody set it."""
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": etcfiles.hostname(config)}
    if config.tty:
        values["TERM"] = "xterm"
    for entry in (*image.env, *config.env):
        key, equals, value = entry.partition("=")
        if equals:
            values[key] = value
        else:
            values.pop(key, None)
    values.setdefault("HOME", identity.home)
    return tuple(f"{key}={value}" for key, value in values.items())


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise RuntimeFaultError(f"the working directory {path!r} is invalid, it needs to be an absolute path")
    return path


def _capabilities(held: tuple[str, ...], identity: Identity) -> Mapping[str, list[str]]:
    """Another user than root gets them only through a file that grants them, as execve(2) has it."""
    names = list(held)
    if identity.uid != 0:
        return {"bounding": names}
    return {"bounding": names, "effective": names, "permitted": names}


def _held(config: ContainerConfig) -> tuple[str, ...]:
    if not config.privileged:
        return capabilities.effective(config.cap_add, config.cap_drop)
    ours = capabilities.own()
    return tuple(sorted(ours & frozenset(capabilities.effective(("ALL",), config.cap_drop, held=ours))))


def _namespaces(config: ContainerConfig, *, unified: bool) -> list[dict[str, str]]:
    netns = config.netns
    kinds = [*([] if config.host_pid else ["pid"]), "ipc", "uts", "mount", *(["cgroup"] if unified else [])]
    network = {"type": "network"} if netns is None else {"type": "network", "path": str(netns)}
    return [*({"type": kind} for kind in kinds), network]


def _rlimit(ulimit: Ulimit) -> dict[str, Any]:
    values = {"soft": ulimit.soft, "hard": ulimit.hard}
    return {
        "type": f"RLIMIT_{ulimit.name.upper()}",
        **{name: _NO_LIMIT if value == -1 else value for name, value in values.items()},
    }


def _mounts(
    config: ContainerConfig, files: ContainerFiles, own_mounts: Sequence[OciMount], *, unified: bool
) -> list[OciMount]:
    """Ours, but for those that the service puts its own in the place of; then the service's."""
    taken = {posixpath.normpath(mount["destination"]) for mount in own_mounts}
    ours = _default_mounts(config, files, unified=unified)
    return [*(mount for mount in ours if mount["destination"] not in taken), *own_mounts]


def _default_mounts(config: ContainerConfig, files: ContainerFiles, *, unified: bool) -> list[OciMount]:
    shut = ["nosuid", "noexec", "nodev"]
    access = "rw" if config.privileged else "ro"
    cgroup = [*shut, access] if unified else [*shut, access, "relatime"]
    own = [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
    shm_bytes = config.shm_bytes or SHM_BYTES
    return [
        mount("/proc", "proc", "proc", shut),
        mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", [*shut, access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
        mount("/dev/mqueue", "mqueue", "mqueue", shut),
        mount("/dev/shm", "tmpfs", "shm", [*shut, "mode=1777", f"size={shm_bytes}"]),
        *(bind(target, files.etc / name, read_only=config.read_only) for name, target in own),
    ]
