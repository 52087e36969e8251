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
