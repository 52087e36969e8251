"""A container's specification as Docker's JSON and in its pretty form: what it is given besides its program."""

from __future__ import annotations

from minictl.mounts import TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ContainerSpec, HealthCheck, Mount


def surroundings_json(container: ContainerSpec) -> dict[str, Any]:
    """Only what is set, as Go's omitempty."""
    dns = container.dns
    return given(
        Init=container.init,
        TTY=container.tty,
        Hosts=[f"{entry.address} {entry.name}" for entry in container.hosts],
        DNSConfig=given(
            Nameservers=list(dns.nameservers), Search=list(dns.search), Options=list(dns.options)
        ),
        Sysctls=dict(sorted(container.sysctls.items())),
        Ulimits=[{"Name": item.name, "Hard": item.hard, "Soft": item.soft} for item in container.ulimits],
        ShmSize=container.shm_size_bytes,
        OomScoreAdj=container.oom_score_adj,
        Healthcheck=_health_json(container.health),
        Readiness=_health_json(container.ready),
        DrainTimeout=_drain_text(container),
        Privileged=container.privileged,
        Devices=[
            {
                "PathOnHost": item.source,
                "PathInContainer": item.target,
                "CgroupPermissions": item.permissions,
            }
            for item in container.devices
        ],
        PidMode="host" if container.host_pid else "",
        Privileges=given(
            NoNewPrivileges=container.no_new_privileges,
            Seccomp=given(Mode="unconfined" if container.seccomp_unconfined else ""),
        ),
        Mounts=[_mount_json(mount) for mount in container.mounts],
    )


def _drain_text(container: ContainerSpec) -> str:
    """ "5s", "0s" for none; "" where the default holds."""
    from minicommon import units

    drain_ns = container.drain_timeout_ns
    return units.format_duration(max(drain_ns, 0)) if drain_ns else ""


def given(**values: Any) -> dict[str, Any]:
    """Only what is not empty or zero."""
    return {name: value for name, value in values.items() if value}


def surroundings_lines(container: ContainerSpec) -> list[str]:
    """In the order of Docker's pretty form."""
    from minicommon import units

    lines = [" Init:\t\ttrue"] if container.init else []
    lines += _identity_lines(container) + _node_lines(container)
    if container.sysctls:
        lines.append("SysCtls:")
        lines += [f" {name}: {value}" for name, value in sorted(container.sysctls.items())]
    if container.ulimits:
        lines.append("Ulimits:")
        lines += [f" {item.name}: {item.soft}:{item.hard}" for item in container.ulimits]
    lines += _check_lines(" Healthcheck:", container.health)
    lines += _check_lines(" Readiness:", container.ready)
    if drain_ns := container.drain_timeout_ns:
        lines.append(f" Drain Timeout:\t{units.format_duration(max(drain_ns, 0))}")
    if container.mounts:
        lines.append("Mounts:")
        for mount in container.mounts:
            lines += [f" Target:\t{mount.target}", f"  Source:\t{mount.source}"]
            lines += [f"  ReadOnly:\t{str(mount.read_only).lower()}", f"  Type:\t\t{TYPES[mount.type]}"]
    return lines


def _identity_lines(container: ContainerSpec) -> list[str]:
    """What the container is, to itself and to others; Docker's pretty form leaves most of it out."""
    from minicommon import units

    from minictl.service_flags import STOP_GRACE_PERIOD_NS

    dns = container.dns
    lines = [
        f" {label}:\t{' '.join(values)}"
        for label, values in (
            ("Command", container.command),
            ("Hostname", [container.hostname] if container.hostname else []),
            ("Groups", container.groups),
            ("Labels", [f"{key}={value}" for key, value in sorted(container.labels.items())]),
            ("Hosts", [f"{entry.name}:{entry.address}" for entry in container.hosts]),
            ("DNS", dns.nameservers),
            ("DNS Search", dns.search),
            ("DNS Options", dns.options),
        )
        if values
    ]
    lines += [f" Stop Signal:\t{container.stop_signal}"] if container.stop_signal else []
    if container.stop_grace_period_ns not in (0, STOP_GRACE_PERIOD_NS):
        lines.append(f" Stop Grace Period:\t{units.format_duration(container.stop_grace_period_ns)}")
    return lines


def _node_lines(container: ContainerSpec) -> list[str]:
    """What it has of its node, and what it may do with it."""
    from minicommon import units

    options = ["no-new-privileges"] if container.no_new_privileges else []
    options += ["seccomp=unconfined"] if container.seccomp_unconfined else []
    switches = (
        ("TTY", container.tty),
        ("Read Only", container.read_only),
        ("Privileged", container.privileged),
    )
    lines = [f" {label}:\ttrue" for label, is_set in switches if is_set]
    lines += [" Pid Mode:\thost"] if container.host_pid else []
    lines += [f" Security Options:\t{' '.join(options)}"] if options else []
    lines += [f" Shm Size:\t{units.bytes_size(container.shm_size_bytes)}"] if container.shm_size_bytes else []
    lines += [f" Oom Score Adj:\t{container.oom_score_adj}"] if container.oom_score_adj else []
    if container.devices:
        lines.append(" Devices:")
        lines += [f"  {item.source}:{item.target}:{item.permissions}" for item in container.devices]
    return lines


def _check_lines(title: str, check: HealthCheck) -> list[str]:
    from minicommon import units

    if not check.test:
        return []
    lines = [title, f"  Test = {' '.join(check.test)}"]
    for label, value in (
        ("Interval", check.interval_ns),
        ("Timeout", check.timeout_ns),
        ("StartPeriod", check.start_period_ns),
        ("StartInterval", check.start_interval_ns),
    ):
        lines += [f"  {label} = {units.format_duration(value)}"] if value else []
    return lines + ([f"  Retries = {check.retries}"] if check.retries else [])


def _health_json(check: HealthCheck) -> dict[str, Any]:
    return given(
        Test=list(check.test),
        Interval=check.interval_ns,
        Timeout=check.timeout_ns,
        StartPeriod=check.start_period_ns,
        StartInterval=check.start_interval_ns,
        Retries=check.retries,
    )


def _mount_json(mount: Mount) -> dict[str, Any]:
    return {
        "Type": TYPES[mount.type],
        **given(
            Source=mount.source,
            Target=mount.target,
            ReadOnly=mount.read_only,
            BindOptions=given(Propagation=mount.propagation, NonRecursive=mount.non_recursive),
            VolumeOptions=given(NoCopy=mount.no_copy),
            TmpfsOptions=given(SizeBytes=mount.size_bytes, Mode=mount.mode),
        ),
    }
