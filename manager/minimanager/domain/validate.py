"""Whether a specification may be stored. A message names the field, what is allowed and what was given.

The rules are Swarm's (swarmkit `manager/controlapi`), and so are the words where Swarm has any. Each function raises
InvalidArgumentError; those that return a specification return it in normal form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.units import format_duration

from minimanager.domain.dependencies import check_dependencies
from minimanager.domain.names import check_name
from minimanager.domain.objects import HOUR, SECOND, ClusterSpec, NodeSpec, ServiceSpec
from minimanager.domain.validate_mode import check_mode
from minimanager.domain.validate_placement import validate_placement
from minimanager.domain.validate_ports import check_endpoint_mode, validate_ports
from minimanager.domain.validate_task import validate_task
from minimanager.domain.validate_update import check_updates

MAX_LABEL_BYTES = 65_536
"""Of all labels of one object together: they are in every list."""

MIN_HEARTBEAT_NS, MAX_HEARTBEAT_NS = SECOND // 10, 600 * SECOND
"""Faster than the lower bound, beats cost more than they tell; slower than the upper, no failure is ever noticed."""

MIN_LEDGER_AGE_NS = HOUR
MIN_LEDGER_RECORDS, MAX_LEDGER_RECORDS = 100, 1_000_000
"""Of the ledger of deliveries: less would tell nothing, more than that fills etcd (2 GiB) by itself."""

MIN_CERTIFICATE_LIFETIME_NS = HOUR
"""swarmkit `ca/certificates.go`."""

MAX_CERTIFICATE_LIFETIME_NS = 20 * 365 * 24 * HOUR
"""A certificate that outlives the root (20 years) could not be verified."""

DEFAULT_CLUSTER_NAME = "default"


def validate_service(spec: ServiceSpec) -> ServiceSpec:
    """A service's specification, in normal form."""
    check_name(spec.name)
    check_labels(spec.labels)
    check_mode(spec)
    check_updates(spec)
    check_endpoint_mode(spec)
    check_dependencies(spec)
    return replace(
        spec,
        task=validate_task(spec.task),
        placement=validate_placement(spec.placement, spec.name),
        ports=validate_ports(spec.ports),
    )


def ensure_may_change(old: ServiceSpec, new: ServiceSpec) -> None:
    """Raises FailedPreconditionError for what an update may not do: rename, or change the mode."""
    if old.name != new.name:
        raise FailedPreconditionError(
            f"renaming services is not supported: the service is {old.name!r}, the update says {new.name!r}"
        )
    if old.mode is not new.mode:
        raise FailedPreconditionError("service mode change is not allowed")


def begins_anew(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Whether the change replaces the service's tasks; of a job any change does, for it begins an iteration."""
    return new != old if new.mode.is_job else new.task != old.task


def validate_node(spec: NodeSpec) -> NodeSpec:
    """A node's specification. Its name is optional: it is shown under its host name."""
    if spec.name:
        check_name(spec.name)
    check_labels(spec.labels)
    return spec


def validate_cluster(spec: ClusterSpec) -> ClusterSpec:
    """The cluster's specification."""
    if spec.name != DEFAULT_CLUSTER_NAME:
        raise InvalidArgumentError(
            f"modification of cluster name is not allowed: it is {DEFAULT_CLUSTER_NAME!r}, not {spec.name!r}"
        )
    check_labels(spec.labels)
    lifetime_ns = spec.certificate_lifetime_ns
    if lifetime_ns < MIN_CERTIFICATE_LIFETIME_NS:
        minimum = format_duration(MIN_CERTIFICATE_LIFETIME_NS)
        raise InvalidArgumentError(
            f"minimum certificate expiry time is: {minimum}, not {format_duration(lifetime_ns)}"
        )
    if lifetime_ns > MAX_CERTIFICATE_LIFETIME_NS:
        maximum = format_duration(MAX_CERTIFICATE_LIFETIME_NS)
        raise InvalidArgumentError(
            f"maximum certificate expiry time is: {maximum}, not {format_duration(lifetime_ns)}"
        )
    if not MIN_HEARTBEAT_NS <= spec.heartbeat_period_ns <= MAX_HEARTBEAT_NS:
        bounds = f"{format_duration(MIN_HEARTBEAT_NS)} to {format_duration(MAX_HEARTBEAT_NS)}"
        raise InvalidArgumentError(
            f"heartbeat period: must be {bounds}, not {format_duration(spec.heartbeat_period_ns)}"
        )
    _check_ledger(spec)
    return spec


def _check_ledger(spec: ClusterSpec) -> None:
    if spec.ledger_age_ns and spec.ledger_age_ns < MIN_LEDGER_AGE_NS:
        raise InvalidArgumentError(
            f"ledger age: must be at least {format_duration(MIN_LEDGER_AGE_NS)}, or 0 for the default, "
            f"not {format_duration(spec.ledger_age_ns)}"
        )
    if spec.ledger_records and not MIN_LEDGER_RECORDS <= spec.ledger_records <= MAX_LEDGER_RECORDS:
        raise InvalidArgumentError(
            f"ledger records: must be {MIN_LEDGER_RECORDS} to {MAX_LEDGER_RECORDS}, or 0 for the default, "
            f"not {spec.ledger_records}"
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Keys are not empty, nothing holds a NUL, and all together are at most MAX_LABEL_BYTES."""
    for key, value in labels.items():
        if not key:
            raise InvalidArgumentError("labels: a key must not be empty")
        if "\0" in key or "\0" in value:
            raise InvalidArgumentError(f"labels: {key!r} must not contain a NUL character")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in labels.items())
    if size > MAX_LABEL_BYTES:
        raise InvalidArgumentError(f"labels: must be at most {MAX_LABEL_BYTES} bytes together, not {size}")
