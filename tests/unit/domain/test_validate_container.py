"""What a container may be given besides its program."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.domain.objects import (
    ContainerSpec,
    Device,
    DnsConfig,
    HealthCheck,
    HostEntry,
    Mount,
    MountType,
    ResourceLimits,
    Resources,
    TaskSpec,
    Ulimit,
)
from minimanager.domain.validate_task import validate_task

GOOD = ContainerSpec(
    image="whoami:1",
    sysctls={"net.core.somaxconn": "1024", "kernel.shmmax": "1", "fs.mqueue.msg_max": "9"},
    ulimits=(Ulimit("nofile", 64, 128), Ulimit("memlock", -1, -1)),
    hosts=(HostEntry("db.lan", "10.0.0.5"), HostEntry("v6", "::1")),
    dns=DnsConfig(("10.0.0.1",), ("lan", "."), ("ndots:2", "edns0")),
    shm_size_bytes=1,
    oom_score_adj=-1000,
    devices=(Device("/dev/fuse", "/dev/f", "rw"),),
    health=HealthCheck(("HTTP", "8080/healthz"), 1_000_000, 1_000_000, 3, 0, 5_000_000),
    mounts=(
        Mount(MountType.BIND, "/srv", "/data", propagation="rslave", non_recursive=True),
        Mount(MountType.VOLUME, "cache", "/cache", no_copy=True),
        Mount(MountType.VOLUME, "", "/own"),
        Mount(MountType.TMPFS, "", "/run", size_bytes=1, mode=0o1777),
    ),
)


def test_all_of_it_may_be_given() -> None:
    assert validate_task(TaskSpec(GOOD)).container == GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sysctls": {"kernel.panic": "1"}}, "sysctl must be net"),
        ({"sysctls": {"net..x": "1"}}, "sysctl must be net"),
        ({"ulimits": (Ulimit("files", 1, 1),)}, "invalid ulimit type: files"),
        ({"ulimits": (Ulimit("core", 2, 1),)}, "soft limit must be less than or equal to hard limit: 2 > 1"),
        ({"ulimits": (Ulimit("core", -1, 1),)}, "soft limit must be less"),
        ({"ulimits": (Ulimit("core", 1, -2),)}, r"must be -1 \(no limit\) or more"),
        ({"ulimits": (Ulimit("core"), Ulimit("core"))}, "ulimit core is given twice"),
        ({"hosts": (HostEntry("a b", "10.0.0.1"),)}, "host must be NAME:ADDRESS, not 'a b'"),
        ({"hosts": (HostEntry("a", "10.0.0"),)}, "host: not an IP address: '10.0.0'"),
        ({"dns": DnsConfig(("dns.lan",))}, "dns: not an IP address: 'dns.lan'"),
        ({"dns": DnsConfig((), ("a b",))}, "dns-search must be a domain, not 'a b'"),
        ({"dns": DnsConfig((), (), ("N=1",))}, "dns-option must be as in"),
        ({"shm_size_bytes": -1}, "shm-size must not be negative"),
        ({"oom_score_adj": 1001}, "oom-score-adj must be -1000 to 1000, not 1001"),
        ({"sysctls": {"net.a": "\0"}}, "NUL"),
        ({"devices": (Device("fuse", "/dev/fuse", "r"),)}, "below /dev, not 'fuse'"),
        ({"devices": (Device("/dev/fuse", "/dev/../etc", "r"),)}, "below /dev, not '/dev/../etc'"),
        ({"devices": (Device("/dev/fuse", "/dev/fuse", "x"),)}, "permissions must be of r, w and m, not 'x'"),
        ({"devices": (Device("/dev/a", "/dev/c", "r"), Device("/dev/b", "/dev/c", "r"))}, "given twice"),
        ({"health": HealthCheck(interval_ns=1)}, "health-interval must be 1ms to 24h"),
        ({"health": HealthCheck(timeout_ns=-1)}, "health-timeout must be 1ms to 24h"),
        ({"health": HealthCheck(start_period_ns=10**15)}, "health-start-period must be 1ms to 24h"),
        ({"health": HealthCheck(start_interval_ns=1)}, "health-start-interval must be"),
        ({"health": HealthCheck(retries=-1)}, "health-retries cannot be negative"),
        ({"health": HealthCheck(("CMD",))}, "a health check must be CMD PROGRAM"),
        ({"health": HealthCheck(("CMD-SHELL", "a", "b"))}, "a health check must be"),
        ({"health": HealthCheck(("HTTP", "80 80/x"))}, "not 'HTTP 80 80/x'"),
        ({"health": HealthCheck(("TCP", "65536"))}, "not 'TCP 65536'"),
        ({"health": HealthCheck(("PING", "x"))}, "not 'PING x'"),
    ],
)
def test_refusals_name_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        validate_task(TaskSpec(replace(GOOD, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ((Mount(),), 'type "volume": field Target must not be empty'),
        ((Mount(target="data"),), "'data' mount path must be absolute"),
        ((Mount(target="/x/.."),), "must be absolute and not /"),
        ((Mount(target="/a"), Mount(target="/a/")), "duplicate mount point: /a/"),
        ((Mount(MountType.BIND, "", "/x"),), 'type "bind": field Source must not be empty'),
        ((Mount(MountType.BIND, "srv", "/x"),), "'srv' mount path must be absolute"),
        ((Mount(MountType.BIND, "/s", "/x", propagation="far"),), "invalid propagation mode: far"),
        ((Mount(MountType.BIND, "/s", "/x", no_copy=True),), "VolumeOptions must not be specified"),
        ((Mount(MountType.VOLUME, "../x", "/x"),), '"../x" includes invalid characters'),
        ((Mount(MountType.VOLUME, "x", "/x", propagation="shared"),), "BindOptions must not be specified"),
        ((Mount(MountType.VOLUME, "x", "/x", mode=1),), "TmpfsOptions must not be specified"),
        ((Mount(MountType.TMPFS, "x", "/x"),), "Source must not be specified"),
        ((Mount(MountType.TMPFS, "", "/x", size_bytes=-1),), "the size must not be negative"),
        ((Mount(MountType.TMPFS, "", "/x", mode=0o10000),), "the mode must be 0 to 7777, not 10000"),
    ],
)
def test_mounts(mounts: tuple[Mount, ...], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        validate_task(TaskSpec(replace(GOOD, mounts=mounts)))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ResourceLimits(swap_bytes=1), "memory-swap needs a limit of memory"),
        (ResourceLimits(memory_bytes=1 << 30, swap_bytes=-2), r"must be -1 \(no limit\) or more"),
    ],
)
def test_swap(limits: ResourceLimits, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        validate_task(TaskSpec(GOOD, Resources(limits)))
