"""SEMANTICS: resources and health, value by value (1G and 1H), and what else a task reserves and logs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.domain.objects import (
    ContainerSpec,
    GenericResource,
    HealthCheck,
    LogDriver,
    Placement,
    Platform,
    ResourceLimits,
    ResourceReservations,
    Resources,
    ServiceSpec,
    Swappiness,
    TaskSpec,
)
from minimanager.domain.validate import validate_service

GOOD = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="whoami:1")))
MIB = 1 << 20
MS = 1_000_000


def limited(**fields: Any) -> ServiceSpec:
    return replace(GOOD, task=replace(GOOD.task, resources=Resources(limits=ResourceLimits(**fields))))


def reserving(**fields: Any) -> ServiceSpec:
    resources = Resources(reservations=ResourceReservations(**fields))
    return replace(GOOD, task=replace(GOOD.task, resources=resources))


def checked(**fields: Any) -> ServiceSpec:
    container = replace(GOOD.task.container, health=HealthCheck(("CMD", "true"), **fields))
    return replace(GOOD, task=replace(GOOD.task, container=container))


def logging(name: str = "json-file", **options: str) -> ServiceSpec:
    given = {key.replace("_", "-"): value for key, value in options.items()}
    return replace(GOOD, task=replace(GOOD.task, log_driver=LogDriver(name, given)))


def on(*platforms: Platform) -> ServiceSpec:
    return replace(GOOD, placement=Placement(platforms=platforms))


@pytest.mark.parametrize(
    ("row", "field", "default"),
    [
        ("G2: limits 0 is none", ResourceLimits().nano_cpus, 0),
        ("G2: limits 0 is none", ResourceLimits().memory_bytes, 0),
        ("G2: limits 0 is none", ResourceLimits().pids, 0),
        ("G2: swap is the kernel's", ResourceLimits().swap_bytes, 0),
        ("G2: swappiness -1 is the node's", ResourceLimits().swappiness.percent, -1),
        ("G2: nothing is reserved", ResourceReservations(), ResourceReservations(0, 0, ())),
        ("G3: none reserved", ResourceReservations().generic, ()),
        ("H1: the image's, else Docker's (tests/unit/agent/test_health_policy.py)", HealthCheck().test, ()),
        ("H1", HealthCheck().interval_ns, 0),
        ("H1", HealthCheck().timeout_ns, 0),
        ("H1", HealthCheck().retries, 0),
        ("H1", HealthCheck().start_period_ns, 0),
        ("H1", HealthCheck().start_interval_ns, 0),
        ("H5: grace 10 s", ContainerSpec().stop_grace_period_ns, 10_000 * MS),
        ("logs: json-file without a limit", TaskSpec().log_driver, LogDriver("", {})),
        ("E1: of any platform", Placement().platforms, ()),
    ],
)
def test_defaults(row: str, field: object, default: object) -> None:
    assert field == default, row


@pytest.mark.parametrize(
    "spec",
    [
        limited(nano_cpus=1 * MS),
        limited(memory_bytes=4 * MIB),
        limited(pids=1),
        limited(swappiness=Swappiness(0)),
        limited(swappiness=Swappiness(100)),
        limited(swappiness=Swappiness(-1)),
        reserving(nano_cpus=1 * MS, memory_bytes=4 * MIB),
        reserving(generic=(GenericResource("NVIDIA-GPU", count=1), GenericResource("SSD", count=10**9))),
        checked(interval_ns=MS, timeout_ns=MS, start_period_ns=MS, start_interval_ns=MS, retries=0),
        logging(),
        logging(""),
        logging("none"),
        logging(max_size="10m"),
        logging(max_size="1k", max_file="1"),
        logging(max_size="1k", max_file="3", compress="true"),
        logging("local"),
        logging("local", compress="true"),
        logging("journald"),
        on(Platform("linux", "amd64"), Platform("", "x86_64"), Platform()),
    ],
)
def test_what_may_be_stored(spec: ServiceSpec) -> None:
    assert validate_service(spec) == spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (limited(nano_cpus=MS - 1), "invalid cpu value 0.000999999: Must be at least 0.001"),
        (limited(memory_bytes=4 * MIB - 1), "Must be at least 4MiB"),
        (limited(pids=-1), "pids must be 0"),
        (limited(swappiness=Swappiness(101)), "memory-swappiness must be 0 to 100, or -1 .* not 101"),
        (limited(swappiness=Swappiness(-2)), "memory-swappiness must be 0 to 100, or -1 .* not -2"),
        (reserving(nano_cpus=1), "Must be at least 0.001"),
        (reserving(memory_bytes=1), "Must be at least 4MiB"),
        (reserving(generic=(GenericResource("", count=1),)), "kind must be .* not ''"),
        (reserving(generic=(GenericResource("A=B", count=1),)), "kind must be .* not 'A=B'"),
        (reserving(generic=(GenericResource("GPU", ("U",)),)), "GPU is reserved by number.* not U"),
        (reserving(generic=(GenericResource("GPU"),)), "GPU must be 1 to 1000000000, not 0"),
        (reserving(generic=(GenericResource("GPU", count=-1),)), "GPU must be 1 to 1000000000, not -1"),
        (reserving(generic=(GenericResource("GPU", count=1),) * 2), "GPU is given twice"),
        (
            reserving(generic=tuple(GenericResource(f"K{n}", count=1) for n in range(101))),
            "at most 100 generic resources, not 101",
        ),
        (checked(interval_ns=MS - 1), "health-interval must be 1ms"),
        (checked(timeout_ns=1), "health-timeout must be 1ms"),
        (checked(start_period_ns=1), "health-start-period must be 1ms"),
        (checked(start_interval_ns=1), "health-start-interval must be 1ms"),
        (checked(retries=-1), "health-retries cannot be negative: -1"),
        (logging("syslog"), "log-driver must be one of json-file, local, journald, none, not 'syslog'"),
        (logging("none", max_size="1m"), "none has no options, not max-size"),
        (logging(labels="a"), "json-file has compress, max-file, max-size .unknown log opt 'labels'"),
        (logging(max_size="much"), "log-opt: max-size: "),
        (logging(max_size="0"), "max-size must be more than 0, not '0'"),
        (logging(max_size="1m", max_file="x"), "max-file must be a number from 1 to 1000, not 'x'"),
        (logging(max_size="1m", max_file="0"), "max-file must be a number from 1 to 1000, not '0'"),
        (logging(max_file="2"), "max-file cannot be more than 1 when max-size is not set"),
        (logging("local", max_file="1001"), "max-file must be a number from 1 to 1000, not '1001'"),
        (logging("local", compress="yes"), "compress must be true or false, not 'yes'"),
        (logging(compress="true", max_size="1m"), "compress cannot be true when max-file is less than 2"),
        (logging("journald", max_size="1m"), "journald has no options, not max-size"),
        (on(Platform("linux", "amd/64")), "a platform is .* not 'amd/64'"),
        (on(*[Platform("linux", "amd64")] * 101), "at most 100 platforms, not 101"),
    ],
)
def test_what_may_not(spec: ServiceSpec, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        validate_service(spec)
