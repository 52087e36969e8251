"""Whether a task's specification may be stored: its container, its resources, its restart policy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from minicommon.errors import InvalidArgumentError
from minicommon.reference import parse_reference
from minicommon.units import format_duration, parse_bytes

from minimanager.domain.objects import (
    ContainerSpec,
    NetworkUse,
    ResourceLimits,
    ResourceReservations,
    RestartPolicy,
    TaskSpec,
)
from minimanager.domain.secrets import normal_uses
from minimanager.domain.template import skeleton
from minimanager.domain.validate_container import check_surroundings, surrounding_texts
from minimanager.domain.validate_resources import check_generic, check_log_driver

MIN_NANO_CPUS = 1_000_000
"""0.001 CPU (swarmkit `manager/controlapi/service.go`)."""

MIN_MEMORY_BYTES = parse_bytes("4MiB")
"""Same source."""

MAX_SPEC_BYTES = 1_000_000
"""Of all texts of a container's specification together: every task holds a copy, and an object must stay below the
1.5 MiB of an etcd request."""

MAX_DURATION_NS = 365 * 24 * 3600 * 1_000_000_000
"""A year: nobody waits longer for a container to stop or to start again."""

MIN_DISCONNECT_NS = 1_000_000_000
"""Less would stop tasks at each restart of a manager."""

_CAPABILITY_NAMES = """
AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER
FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE
SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
"""
_CAPABILITIES = frozenset(_CAPABILITY_NAMES.split())
"""capabilities(7), Linux 5.9 and later."""

_SIGNAL_NAMES = """
ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP
TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX
"""
_SIGNALS = frozenset(_SIGNAL_NAMES.split())
"""signal(7)."""

MAX_NETWORKS = 64
"""Of one task: each is an interface in its container."""

MAX_ALIASES, MAX_ALIAS_LENGTH = 64, 253
"""Of a task on one network; the length is that of a DNS name (RFC 1035)."""

_ALIAS = re.compile(
    r"[A-Za-z0-9_](?:[-A-Za-z0-9_]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[-A-Za-z0-9_]*[A-Za-z0-9_])?)*"
)
_SIGNAL_NUMBERS = range(1, 65)
_REALTIME_SIGNAL = re.compile(r"RTMIN\+(?:[1-9]|1[0-5])|RTMAX-(?:[1-9]|1[0-4])")
_HOSTNAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_USER = re.compile(r"[^:\0]+(?::[^:\0]+)?")


def validate_task(spec: TaskSpec) -> TaskSpec:
    """A task's specification in normal form: capabilities with `CAP_`. Raises InvalidArgumentError."""
    limits, reservations = spec.resources.limits, spec.resources.reservations
    _check_resources("limits", limits)
    _check_resources("reservations", reservations)
    if limits.pids < 0:
        raise InvalidArgumentError(f"limits: pids must be 0 (no limit) or more, not {limits.pids}")
    _check_swap(limits)
    _check_swappiness(limits)
    check_generic(reservations.generic)
    check_log_driver(spec.log_driver)
    _check_disconnect(spec.disconnect_stop_ns)
    _check_within_limits(limits, reservations)
    _check_restart(spec.restart)
    check_networks(spec.networks)
    return replace(spec, container=normal_uses(_validate_container(spec.container)))


def _check_disconnect(stop_ns: int) -> None:
    if stop_ns and not MIN_DISCONNECT_NS <= stop_ns <= MAX_DURATION_NS:
        raise InvalidArgumentError(
            f"on-disconnect: stop must be {format_duration(MIN_DISCONNECT_NS)} to {format_duration(MAX_DURATION_NS)}, "
            f"not {format_duration(stop_ns)}"
        )


def normal_capability(name: str) -> str:
    """`CAP_NET_ADMIN` for net_admin and the like; `ALL` stays. Raises InvalidArgumentError."""
    upper = name.upper()
    if upper in ("ALL", "CAP_ALL"):
        return "ALL"
    bare = upper.removeprefix("CAP_")
    if bare not in _CAPABILITIES:
        raise InvalidArgumentError(f'invalid capability: unknown capability: "{name}"')
    return f"CAP_{bare}"


def check_signal(name: str) -> None:
    """Raises InvalidArgumentError unless `name` is a signal's name, with or without SIG, or its number."""
    bare = name.upper().removeprefix("SIG")
    known = bare in _SIGNALS or _REALTIME_SIGNAL.fullmatch(bare) is not None
    if not known and not (name.isascii() and name.isdigit() and int(name) in _SIGNAL_NUMBERS):
        raise InvalidArgumentError(f"invalid signal: {name}")


def _validate_container(spec: ContainerSpec) -> ContainerSpec:
    _check_image(spec.image)
    _check_env(spec.env)
    _check_container_names(spec)
    for key in spec.labels:
        if not key:
            raise InvalidArgumentError("ContainerSpec: labels: a key must not be empty")
    if spec.stop_signal:
        check_signal(spec.stop_signal)
    check_surroundings(spec)
    _check_duration("ContainerSpec: stop-grace-period", spec.stop_grace_period_ns)
    texts = list(_texts(spec))
    if any("\0" in text for text in texts):
        raise InvalidArgumentError("ContainerSpec: no field may contain a NUL character")
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_SPEC_BYTES:
        raise InvalidArgumentError(f"ContainerSpec: must be at most {MAX_SPEC_BYTES} bytes, not {size}")
    return replace(
        spec,
        cap_add=tuple(normal_capability(name) for name in spec.cap_add),
        cap_drop=tuple(normal_capability(name) for name in spec.cap_drop),
    )


def _check_image(image: str) -> None:
    if not image:
        raise InvalidArgumentError("ContainerSpec: image reference must be provided")
    try:
        parse_reference(image)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f'ContainerSpec: "{image}" is not a valid repository/tag: {error}'
        ) from error


def _check_env(env: Iterable[str]) -> None:
    for item in env:
        key, separator, value = item.partition("=")
        if not key or not separator:
            raise InvalidArgumentError(f"invalid environment variable: must be KEY=value, not {item!r}")
        skeleton(value)


def _check_container_names(spec: ContainerSpec) -> None:
    hostname = skeleton(spec.hostname)
    if hostname and (len(hostname) > 63 or not _HOSTNAME.fullmatch(hostname)):
        raise InvalidArgumentError(
            f"ContainerSpec: hostname must be a host name of at most 63 characters, not {spec.hostname!r}"
        )
    if spec.user and not _USER.fullmatch(spec.user):
        raise InvalidArgumentError(f"ContainerSpec: user must be name|uid[:group|gid], not {spec.user!r}")
    if "" in spec.groups:
        raise InvalidArgumentError("ContainerSpec: groups must be names or numbers, not empty")
    if spec.dir and not spec.dir.startswith("/"):
        raise InvalidArgumentError(f"ContainerSpec: dir must be an absolute path, not {spec.dir!r}")


def _texts(spec: ContainerSpec) -> Iterable[str]:
    yield from (spec.image, spec.hostname, spec.user, spec.dir)
    for several in (spec.command, spec.args, spec.env, spec.groups):
        yield from several
    for key, value in spec.labels.items():
        yield from (key, value)
    yield from (secret.file.name for secret in spec.secrets)
    yield from (config.file.name for config in spec.configs)
    yield from surrounding_texts(spec)


def _check_resources(kind: str, given: ResourceLimits | ResourceReservations) -> None:
    if given.nano_cpus != 0 and given.nano_cpus < MIN_NANO_CPUS:
        raise InvalidArgumentError(
            f"{kind}: invalid cpu value {given.nano_cpus / 1e9:g}: Must be at least {MIN_NANO_CPUS / 1e9:g}"
        )
    if given.memory_bytes != 0 and given.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidArgumentError(
            f"{kind}: invalid memory value {given.memory_bytes}: Must be at least 4MiB"
        )


def _check_swap(limits: ResourceLimits) -> None:
    if limits.swap_bytes < -1:
        raise InvalidArgumentError(
            f"limits: memory-swap must be -1 (no limit) or more, not {limits.swap_bytes}"
        )
    if limits.swap_bytes and not limits.memory_bytes:
        raise InvalidArgumentError("limits: memory-swap needs a limit of memory, too")


_SWAPPINESS = range(-1, 101)
"""Docker's `--memory-swappiness`; -1 is the node's own setting."""


def _check_swappiness(limits: ResourceLimits) -> None:
    if limits.swappiness.percent not in _SWAPPINESS:
        raise InvalidArgumentError(
            f"limits: memory-swappiness must be 0 to 100, or -1 for the node's own, not {limits.swappiness.percent}"
        )


def _check_within_limits(limits: ResourceLimits, reservations: ResourceReservations) -> None:
    """A task may not reserve more than it is allowed to use: the rest would be lost to everybody."""
    if limits.nano_cpus and reservations.nano_cpus > limits.nano_cpus:
        raise InvalidArgumentError(
            f"reservations: cpu {reservations.nano_cpus / 1e9:g} is more than the limit {limits.nano_cpus / 1e9:g}"
        )
    if limits.memory_bytes and reservations.memory_bytes > limits.memory_bytes:
        raise InvalidArgumentError(
            f"reservations: memory {reservations.memory_bytes} is more than the limit {limits.memory_bytes}"
        )


def _check_restart(policy: RestartPolicy) -> None:
    _check_duration("TaskSpec: restart-delay", policy.delay_ns)
    _check_duration("TaskSpec: restart-window", policy.window_ns)
    if policy.max_attempts < 0:
        raise InvalidArgumentError(
            f"TaskSpec: restart-max-attempts cannot be negative: {policy.max_attempts}"
        )


def check_networks(networks: tuple[NetworkUse, ...]) -> None:
    """Raises InvalidArgumentError for too many, and for aliases that no host could have."""
    if len(networks) > MAX_NETWORKS:
        raise InvalidArgumentError(f"TaskSpec: networks: must be at most {MAX_NETWORKS}, not {len(networks)}")
    for use in networks:
        if len(use.aliases) > MAX_ALIASES:
            raise InvalidArgumentError(
                f"TaskSpec: network {use.network}: must have at most {MAX_ALIASES} aliases, not {len(use.aliases)}"
            )
        for alias in use.aliases:
            if len(alias) > MAX_ALIAS_LENGTH or not _ALIAS.fullmatch(alias):
                raise InvalidArgumentError(
                    f"TaskSpec: network {use.network}: an alias must be a host name of at most "
                    f"{MAX_ALIAS_LENGTH} characters, not {alias!r}"
                )


def _check_duration(field: str, nanoseconds: int) -> None:
    if nanoseconds < 0:
        raise InvalidArgumentError(f"{field} cannot be negative: {format_duration(nanoseconds)}")
    if nanoseconds > MAX_DURATION_NS:
        raise InvalidArgumentError(f"{field}: must be at most a year, not {format_duration(nanoseconds)}")
