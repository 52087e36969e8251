"""What may be stored, and how what may not is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minimanager.domain.objects import (
    HOUR,
    SECOND,
    ClusterSpec,
    ContainerSpec,
    NodeSpec,
    PortConfig,
    PortProtocol,
    ResourceLimits,
    ResourceReservations,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from minimanager.domain.validate import (
    ensure_may_change,
    validate_cluster,
    validate_node,
    validate_service,
)
from minimanager.domain.validate_task import validate_task

GOOD = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="whoami:1")))


def with_container(**fields: Any) -> ServiceSpec:
    return replace(GOOD, task=replace(GOOD.task, container=replace(GOOD.task.container, **fields)))


def with_resources(**fields: Any) -> ServiceSpec:
    return replace(GOOD, task=replace(GOOD.task, resources=Resources(**fields)))


def with_restart(**fields: Any) -> ServiceSpec:
    return replace(GOOD, task=replace(GOOD.task, restart=RestartPolicy(**fields)))


def with_ports(*ports: PortConfig) -> ServiceSpec:
    return replace(GOOD, ports=ports)


@pytest.mark.parametrize(
    "spec",
    [
        GOOD,
        replace(GOOD, name="A-b_c9"),
        replace(GOOD, name="x" * 63),
        replace(GOOD, replicas=0, labels={"a": "", "b.c/d": "e=f"}),
        with_container(
            env=("A=1", "B=", "C=x=y"),
            hostname="a-b.c",
            user="1000:1000",
            groups=("staff",),
            dir="/srv",
            labels={"tier": "front"},
            stop_signal="SIGUSR1",
            stop_grace_period_ns=0,
        ),
        with_container(stop_signal="15"),
        with_container(stop_signal="rtmin+3"),
        with_resources(
            limits=ResourceLimits(10**6, 4 << 20, 100), reservations=ResourceReservations(10**6, 4 << 20)
        ),
        with_restart(max_attempts=3, window_ns=HOUR),
        with_ports(
            PortConfig(PortProtocol.TCP, 53, 53),
            PortConfig(PortProtocol.UDP, 53, 53),
            PortConfig(PortProtocol.TCP, 80, 0),
            PortConfig(PortProtocol.TCP, 81, 0),
        ),
    ],
)
def test_good_services(spec: ServiceSpec) -> None:
    assert validate_service(spec) == spec


def test_capabilities_get_their_full_names() -> None:
    spec = validate_service(with_container(cap_add=("net_admin", "CAP_CHOWN"), cap_drop=("all", "CAP_ALL")))
    assert spec.task.container.cap_add == ("CAP_NET_ADMIN", "CAP_CHOWN")
    assert spec.task.container.cap_drop == ("ALL", "ALL")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(GOOD, name=""), "meta: name must be provided"),
        (replace(GOOD, name="x" * 64), "name must be 63 characters or fewer, not 64"),
        (replace(GOOD, name="-web"), "name must be valid as a DNS name component"),
        (replace(GOOD, name="web."), "name must be valid as a DNS name component"),
        (replace(GOOD, name="web\n"), "name must be valid as a DNS name component"),
        (replace(GOOD, replicas=-1), "replicas: must be 0 to 1000000, not -1"),
        (replace(GOOD, replicas=2**63), "replicas: must be 0 to 1000000"),
        (replace(GOOD, labels={"": "x"}), "labels: a key must not be empty"),
        (replace(GOOD, labels={"a": "\0"}), "labels: 'a' must not contain a NUL"),
        (
            replace(GOOD, labels={"a": "x" * 70_000}),
            "labels: must be at most 65536 bytes together, not 70001",
        ),
        (with_container(image=""), "ContainerSpec: image reference must be provided"),
        (
            with_container(image="A b"),
            'ContainerSpec: "A b" is not a valid repository/tag: invalid reference',
        ),
        (with_container(env=("A",)), "invalid environment variable: must be KEY=value, not 'A'"),
        (with_container(env=("=A",)), "invalid environment variable: must be KEY=value, not '=A'"),
        (with_container(env=("A=\0",)), "ContainerSpec: no field may contain a NUL character"),
        (
            with_container(args=("x" * 1_000_001,)),
            "ContainerSpec: must be at most 1000000 bytes, not 1000009",
        ),
        (with_container(hostname="a_b"), "ContainerSpec: hostname must be a host name"),
        (with_container(hostname="x" * 64), "ContainerSpec: hostname must be a host name"),
        (with_container(user="a:b:c"), "ContainerSpec: user must be name|uid[:group|gid], not 'a:b:c'"),
        (with_container(groups=("",)), "ContainerSpec: groups must be names or numbers, not empty"),
        (with_container(dir="srv"), "ContainerSpec: dir must be an absolute path, not 'srv'"),
        (with_container(labels={"": "x"}), "ContainerSpec: labels: a key must not be empty"),
        (with_container(stop_signal="SIGNOPE"), "invalid signal: SIGNOPE"),
        (with_container(stop_signal="65"), "invalid signal: 65"),
        (with_container(stop_signal="RTMIN+16"), "invalid signal: RTMIN+16"),
        (
            with_container(stop_grace_period_ns=-SECOND),
            "ContainerSpec: stop-grace-period cannot be negative: -1s",
        ),
        (with_container(cap_add=("FLY",)), 'invalid capability: unknown capability: "FLY"'),
        (
            with_resources(limits=ResourceLimits(nano_cpus=999_999)),
            "limits: invalid cpu value 0.000999999: Must be",
        ),
        (
            with_resources(limits=ResourceLimits(nano_cpus=-1)),
            "limits: invalid cpu value -1e-09: Must be at least",
        ),
        (
            with_resources(limits=ResourceLimits(memory_bytes=1)),
            "limits: invalid memory value 1: Must be at least 4MiB",
        ),
        (with_resources(limits=ResourceLimits(pids=-1)), "limits: pids must be 0 (no limit) or more, not -1"),
        (
            with_resources(reservations=ResourceReservations(memory_bytes=100)),
            "reservations: invalid memory value 100: Must be at least 4MiB",
        ),
        (
            with_resources(limits=ResourceLimits(10**9), reservations=ResourceReservations(2 * 10**9)),
            "reservations: cpu 2 is more than the limit 1",
        ),
        (
            with_resources(
                limits=ResourceLimits(memory_bytes=4 << 20),
                reservations=ResourceReservations(memory_bytes=8 << 20),
            ),
            "reservations: memory 8388608 is more than the limit 4194304",
        ),
        (with_restart(delay_ns=-1), "TaskSpec: restart-delay cannot be negative: -1ns"),
        (with_restart(window_ns=-1), "TaskSpec: restart-window cannot be negative: -1ns"),
        (
            with_restart(delay_ns=9000 * HOUR),
            "TaskSpec: restart-delay: must be at most a year, not 9000h0m0s",
        ),
        (with_restart(max_attempts=-1), "TaskSpec: restart-max-attempts cannot be negative: -1"),
        (with_ports(PortConfig(target_port=0)), "ports: target port must be 1 to 65535, not 0"),
        (with_ports(PortConfig(target_port=65536)), "ports: target port must be 1 to 65535, not 65536"),
        (
            with_ports(PortConfig(target_port=80, published_port=65536)),
            "ports: published port must be 1 to 65535, or 0 for any, not 65536",
        ),
        (
            with_ports(
                PortConfig(target_port=80, published_port=80), PortConfig(target_port=81, published_port=80)
            ),
            "EndpointSpec: duplicate published ports provided: 80/tcp",
        ),
    ],
)
def test_bad_services(spec: ServiceSpec, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate_service(spec)
    assert str(caught.value).startswith(message)


def test_a_service_is_not_renamed() -> None:
    ensure_may_change(GOOD, replace(GOOD, replicas=9))
    with pytest.raises(FailedPreconditionError, match="renaming services is not supported"):
        ensure_may_change(GOOD, replace(GOOD, name="other"))


def test_a_service_keeps_its_mode() -> None:
    changed = replace(GOOD, mode=None)  # type: ignore[arg-type]  # there is one mode so far
    assert GOOD.mode is ServiceMode.REPLICATED
    with pytest.raises(FailedPreconditionError, match="service mode change is not allowed"):
        ensure_may_change(GOOD, changed)


def test_nodes() -> None:
    spec = NodeSpec(name="core-01", labels={"zone": "a"})
    assert validate_node(spec) == spec
    assert validate_node(NodeSpec()) == NodeSpec()
    with pytest.raises(InvalidArgumentError, match="DNS name component"):
        validate_node(NodeSpec(name="core 01"))
    with pytest.raises(InvalidArgumentError, match="key must not be empty"):
        validate_node(NodeSpec(labels={"": ""}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "modification of cluster name is not allowed: it is 'default', not 'other'"),
        (
            {"certificate_lifetime_ns": HOUR - 1},
            "minimum certificate expiry time is: 1h0m0s, not 59m59.999999999s",
        ),
        (
            {"certificate_lifetime_ns": 30 * 365 * 24 * HOUR},
            "maximum certificate expiry time is: 175200h0m0s",
        ),
        ({"heartbeat_period_ns": 0}, "heartbeat period: must be 100ms to 10m0s, not 0s"),
        ({"heartbeat_period_ns": 601 * SECOND}, "heartbeat period: must be 100ms to 10m0s, not 10m1s"),
        ({"labels": {"": ""}}, "labels: a key must not be empty"),
    ],
)
def test_clusters(change: dict[str, Any], message: str) -> None:
    assert validate_cluster(ClusterSpec(task_history_limit=-1)) == ClusterSpec(task_history_limit=-1)
    with pytest.raises(InvalidArgumentError) as caught:
        validate_cluster(replace(ClusterSpec(), **change))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("seconds", [-1, 0.5, 366 * 24 * 3600])
def test_how_long_a_task_runs_without_a_manager_has_bounds(seconds: float) -> None:
    spec = TaskSpec(container=ContainerSpec(image="web:1"), disconnect_stop_ns=int(seconds * SECOND))
    with pytest.raises(InvalidArgumentError, match="on-disconnect: stop must be 1s to 8760h0m0s, not"):
        validate_task(spec)
    assert validate_task(replace(spec, disconnect_stop_ns=SECOND)).disconnect_stop_ns == SECOND
