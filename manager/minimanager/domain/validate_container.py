"""Whether what a container is given besides its program may be stored: mounts, files of /etc, kernel settings.

What only a node can know, whether a bind mount's source exists for one, is the node's to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from posixpath import normpath

from minicommon.errors import InvalidArgumentError
from minicommon.units import format_duration

from minimanager.domain.objects import (
    ContainerSpec,
    Device,
    DnsConfig,
    HealthCheck,
    HostEntry,
    Mount,
    MountType,
    Ulimit,
)
from minimanager.domain.template import skeleton

_ULIMIT_NAMES = """
core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack
"""
ULIMITS = frozenset(_ULIMIT_NAMES.split())
"""getrlimit(2), as Docker names them."""

OOM_SCORES = range(-1000, 1001)
"""proc(5), oom_score_adj."""

PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")

MAX_MODE = 0o7777

_SYSCTL = re.compile(
    r"net\.[A-Za-z0-9_./-]+|fs\.mqueue\.[a-z_]+"
    r"|kernel\.(?:msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)"
)
"""Those that the container's own namespaces hold; any other would change the node."""

MIN_HEALTH_NS = 1_000_000
"""1 ms (swarmkit `manager/controlapi/service.go`)."""

MAX_HEALTH_NS = 24 * 3600 * 1_000_000_000
"""A day: a check that rare tells nobody anything in time."""

MAX_DRAIN_NS = 3600 * 1_000_000_000
"""An hour: an update that waits longer for each task never ends."""

_HTTP = re.compile(r"([0-9]{1,5})(?:/[!-~]*)?")

_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")


def check_surroundings(spec: ContainerSpec) -> None:
    """Raises InvalidArgumentError."""
    _check_sysctls(spec.sysctls)
    _check_ulimits(spec.ulimits)
    _check_hosts(spec.hosts)
    _check_dns(spec.dns)
    if spec.shm_size_bytes < 0:
        raise InvalidArgumentError(f"ContainerSpec: shm-size must not be negative: {spec.shm_size_bytes}")
    if spec.oom_score_adj not in OOM_SCORES:
        raise InvalidArgumentError(
            f"ContainerSpec: oom-score-adj must be -1000 to 1000, not {spec.oom_score_adj}"
        )
    _check_mounts(spec.mounts)
    _check_health(spec.health, "health")
    _check_health(spec.ready, "ready")
    if spec.ready != HealthCheck() and not spec.ready.test:
        raise InvalidArgumentError(
            "ContainerSpec: a readiness check must be CMD PROGRAM..., CMD-SHELL LINE, HTTP PORT/PATH or TCP PORT; "
            "an image has none to take it from"
        )
    if not -1 <= spec.drain_timeout_ns <= MAX_DRAIN_NS:
        raise InvalidArgumentError(
            f"ContainerSpec: drain-timeout must be at most {format_duration(MAX_DRAIN_NS)}, 0 for the default or -1 "
            f"for none, not {format_duration(spec.drain_timeout_ns)}"
        )
    _check_devices(spec.devices)


def surrounding_texts(spec: ContainerSpec) -> Iterable[str]:
    """Every text in it: they count for the size, and none may hold a NUL."""
    for key, value in spec.sysctls.items():
        yield from (key, value)
    for ulimit in spec.ulimits:
        yield ulimit.name
    for entry in spec.hosts:
        yield from (entry.name, entry.address)
    for several in (spec.dns.nameservers, spec.dns.search, spec.dns.options):
        yield from several
    for mount in spec.mounts:
        yield from (mount.source, mount.target, mount.propagation)
    yield from spec.health.test
    for device in spec.devices:
        yield from (device.source, device.target, device.permissions)


def _check_sysctls(names: Iterable[str]) -> None:
    for name in names:
        if not _SYSCTL.fullmatch(name) or ".." in name:
            raise InvalidArgumentError(
                "ContainerSpec: sysctl must be net.*, fs.mqueue.* or one of kernel's for messages, semaphores "
                f"and shared memory, not {name!r}"
            )


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    seen: set[str] = set()
    for ulimit in ulimits:
        if ulimit.name not in ULIMITS:
            raise InvalidArgumentError(
                f"invalid ulimit type: {ulimit.name}: must be one of {', '.join(sorted(ULIMITS))}"
            )
        if ulimit.name in seen:
            raise InvalidArgumentError(f"ContainerSpec: ulimit {ulimit.name} is given twice")
        seen.add(ulimit.name)
        if ulimit.soft < -1 or ulimit.hard < -1:
            raise InvalidArgumentError(f"ContainerSpec: ulimit {ulimit.name} must be -1 (no limit) or more")
        if ulimit.hard != -1 and not 0 <= ulimit.soft <= ulimit.hard:
            raise InvalidArgumentError(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )


def _check_hosts(hosts: Iterable[HostEntry]) -> None:
    for entry in hosts:
        if not _HOST.fullmatch(entry.name):
            raise InvalidArgumentError(f"ContainerSpec: host must be NAME:ADDRESS, not {entry.name!r}")
        _check_address("host", entry.address)


def _check_dns(dns: DnsConfig) -> None:
    for server in dns.nameservers:
        _check_address("dns", server)
    for domain in dns.search:
        if domain != "." and not _HOST.fullmatch(domain.rstrip(".")):
            raise InvalidArgumentError(f"ContainerSpec: dns-search must be a domain, not {domain!r}")
    for option in dns.options:
        if not re.fullmatch(r"[a-z0-9-]+(?::[0-9]+)?", option):
            raise InvalidArgumentError(
                f"ContainerSpec: dns-option must be as in resolv.conf(5), not {option!r}"
            )


def _check_address(field: str, text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise InvalidArgumentError(f"ContainerSpec: {field}: not an IP address: {text!r}") from None


def _check_mounts(mounts: Iterable[Mount]) -> None:
    targets: set[str] = set()
    for mount in mounts:
        _check_mount(replace(mount, source=skeleton(mount.source), target=skeleton(mount.target)))
        target = normpath(mount.target)
        if target in targets:
            raise InvalidArgumentError(f"ContainerSpec: duplicate mount point: {mount.target}")
        targets.add(target)


def _check_mount(mount: Mount) -> None:
    what = f'invalid mount config for type "{mount.type.name.lower()}"'
    if not mount.target:
        raise InvalidArgumentError(f"{what}: field Target must not be empty")
    if not mount.target.startswith("/") or normpath(mount.target) in ("/", "//"):
        raise InvalidArgumentError(
            f"{what}: invalid mount path: '{mount.target}' mount path must be absolute and not /"
        )
    match mount.type:
        case MountType.BIND:
            _check_bind(mount, what)
        case MountType.VOLUME:
            _check_volume(mount, what)
        case MountType.TMPFS:
            _check_tmpfs(mount, what)
    if mount.type is not MountType.BIND and (mount.propagation or mount.non_recursive):
        raise InvalidArgumentError(f"{what}: field BindOptions must not be specified")
    if mount.type is not MountType.VOLUME and mount.no_copy:
        raise InvalidArgumentError(f"{what}: field VolumeOptions must not be specified")
    if mount.type is not MountType.TMPFS and (mount.size_bytes or mount.mode):
        raise InvalidArgumentError(f"{what}: field TmpfsOptions must not be specified")


def _check_bind(mount: Mount, what: str) -> None:
    if not mount.source:
        raise InvalidArgumentError(f"{what}: field Source must not be empty")
    if not mount.source.startswith("/"):
        raise InvalidArgumentError(
            f"{what}: invalid mount path: '{mount.source}' mount path must be absolute"
        )
    if mount.propagation and mount.propagation not in PROPAGATIONS:
        raise InvalidArgumentError(
            f"{what}: invalid propagation mode: {mount.propagation}: must be {', '.join(PROPAGATIONS)}"
        )


def _check_volume(mount: Mount, what: str) -> None:
    if mount.source and not _VOLUME.fullmatch(mount.source):
        raise InvalidArgumentError(
            f'{what}: "{mount.source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )


def _check_tmpfs(mount: Mount, what: str) -> None:
    if mount.source:
        raise InvalidArgumentError(f"{what}: field Source must not be specified")
    if mount.size_bytes < 0:
        raise InvalidArgumentError(f"{what}: the size must not be negative: {mount.size_bytes}")
    if not 0 <= mount.mode <= MAX_MODE:
        raise InvalidArgumentError(f"{what}: the mode must be 0 to {MAX_MODE:o}, not {mount.mode:o}")


def _check_devices(devices: Iterable[Device]) -> None:
    targets: set[str] = set()
    for device in devices:
        for path in (device.source, device.target):
            if not path.startswith("/dev/") or ".." in path.split("/"):
                raise InvalidArgumentError(f"ContainerSpec: a device must be a path below /dev, not {path!r}")
        if not device.permissions or set(device.permissions) - set("rwm"):
            raise InvalidArgumentError(
                f"ContainerSpec: a device's permissions must be of r, w and m, not {device.permissions!r}"
            )
        if device.target in targets:
            raise InvalidArgumentError(f"ContainerSpec: device {device.target} is given twice")
        targets.add(device.target)


def _check_health(check: HealthCheck, kind: str) -> None:
    for field, value in (
        ("interval", check.interval_ns),
        ("timeout", check.timeout_ns),
        ("start-period", check.start_period_ns),
        ("start-interval", check.start_interval_ns),
    ):
        if value and not MIN_HEALTH_NS <= value <= MAX_HEALTH_NS:
            raise InvalidArgumentError(
                f"ContainerSpec: {kind}-{field} must be 1ms to 24h, or 0 for the default, "
                f"not {format_duration(value)}"
            )
    if check.retries < 0:
        raise InvalidArgumentError(f"ContainerSpec: {kind}-retries cannot be negative: {check.retries}")
    if check.test and not _is_test(check.test):
        raise InvalidArgumentError(
            f"ContainerSpec: a {kind} check must be CMD PROGRAM..., CMD-SHELL LINE, HTTP PORT/PATH, TCP PORT or NONE, "
            f"not {' '.join(check.test)!r}"
        )


def _is_test(test: tuple[str, ...]) -> bool:
    match test:
        case ("NONE",):
            return True
        case ("CMD", program, *_) | ("CMD-SHELL", program):
            return bool(program)
        case ("HTTP", where):
            found = _HTTP.fullmatch(where)
            return found is not None and _is_port(found[1])
        case ("TCP", port):
            return _is_port(port)
        case _:
            return False


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535
