"""`--filter`: which nodes, services, tasks and networks a list shows.

A filter is a key with values. One of the values has to match, but all labels have to. Ids and names match by their
beginning, as Swarm's lists do; those of networks as regular expressions anywhere, as the engine's do. Keys and values
that do not exist raise InvalidArgumentError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from minicommon.errors import InvalidArgumentError

from minimanager.domain.names import container_name
from minimanager.domain.objects import Config, Network, Node, Secret, Service, Task
from minimanager.domain.one_off import LABEL
from minimanager.domain.snapshot import Snapshot

T = TypeVar("T")

Filters = Mapping[str, Sequence[str]]
"""By key: for example {"name": ["web"], "label": ["env=prod"]}."""

Test = Callable[[T, Sequence[str]], bool]

_VALUES: Mapping[str, Sequence[str]] = {
    "role": ("manager", "worker"),
    "membership": ("accepted", "pending"),
    "mode": ("replicated", "global", "replicated-job", "global-job"),
    "desired-state": ("ready", "running", "complete", "shutdown", "remove", "accepted"),
    "type": ("custom", "builtin"),
    "scope": ("swarm", "global", "local"),
}
"""The keys that have a closed set of values."""


def filter_nodes(snapshot: Snapshot, filters: Filters) -> list[Node]:
    """The nodes that pass: id, name, role, membership, label (the engine's), node.label (the node's)."""
    return _select(
        snapshot.nodes.values(),
        filters,
        {
            "id": lambda node, values: _begins(node.id, values),
            "name": lambda node, values: _begins(node_name(snapshot, node), values),
            "role": lambda node, values: _is(node.spec.role.name, values),
            "membership": lambda node, values: _is("accepted", values),
            "label": lambda node, values: has_labels(_engine_labels(snapshot, node), values),
            "node.label": lambda node, values: has_labels(node.spec.labels, values),
        },
    )


def filter_services(snapshot: Snapshot, filters: Filters) -> list[Service]:
    """The services that pass and are not being removed: id, name, label, mode.

    Those of `minictl run` only when their label is asked for.
    """
    hidden = not any(value.partition("=")[0] == LABEL for value in filters.get("label", ()))
    return _select(
        (
            service
            for service in snapshot.services.values()
            if not service.removing and not (hidden and LABEL in service.spec.labels)
        ),
        filters,
        {
            "id": lambda service, values: _begins(service.id, values),
            "name": lambda service, values: _begins(service.spec.name, values),
            "label": lambda service, values: has_labels(service.spec.labels, values),
            "mode": lambda service, values: _is(_dashed(service.spec.mode.name), values),
        },
    )


def filter_tasks(snapshot: Snapshot, filters: Filters) -> list[Task]:
    """The tasks that pass: id, name, label (the container's), service, node, desired-state."""
    return _select(
        snapshot.tasks.values(),
        filters,
        {
            "id": lambda task, values: _begins(task.id, values),
            "name": lambda task, values: _begins(container_name(task), values),
            "label": lambda task, values: has_labels(task.spec.container.labels, values),
            "service": lambda task, values: _refers(task.service_id, task.service_name, values),
            "node": lambda task, values: _refers(task.node_id, _node_name(snapshot, task), values),
            "desired-state": lambda task, values: _is(task.desired_state.name, values),
        },
    )


def filter_networks(snapshot: Snapshot, filters: Filters) -> list[Network]:
    """The networks that pass and are not being removed: id, name, label, driver, scope, type."""
    return _select(
        (network for network in snapshot.networks.values() if not network.removing),
        filters,
        {
            "id": lambda network, values: _found(network.id, values),
            "name": lambda network, values: _found(network.spec.name, values),
            "label": lambda network, values: has_labels(network.spec.labels, values),
            "driver": lambda network, values: network.spec.driver in values,
            "scope": lambda network, values: _is("swarm", values),
            "type": lambda network, values: _is("custom", values),
        },
    )


def filter_secrets(snapshot: Snapshot, filters: Filters) -> list[Secret]:
    """The secrets that pass: id, name, label."""
    return _select(
        snapshot.secrets.values(),
        filters,
        {
            "id": lambda secret, values: _begins(secret.id, values),
            "name": lambda secret, values: _begins(secret.spec.name, values),
            "label": lambda secret, values: has_labels(secret.spec.labels, values),
        },
    )


def filter_configs(snapshot: Snapshot, filters: Filters) -> list[Config]:
    """The configs that pass: id, name, label."""
    return _select(
        snapshot.configs.values(),
        filters,
        {
            "id": lambda config, values: _begins(config.id, values),
            "name": lambda config, values: _begins(config.spec.name, values),
            "label": lambda config, values: has_labels(config.spec.labels, values),
        },
    )


def node_name(snapshot: Snapshot, node: Node) -> str:
    """What the node is called: its host name, else the name in its specification."""
    status = snapshot.node_statuses.get(node.id)
    return (status.description.hostname if status is not None else "") or node.spec.name


def _select(objects: Iterable[T], filters: Filters, tests: Mapping[str, Test[T]]) -> list[T]:
    for key in filters:
        if key not in tests:
            raise InvalidArgumentError(f"invalid filter '{key}': must be one of {', '.join(sorted(tests))}")
        _check_values(key, filters[key])
    asked = [(tests[key], values) for key, values in filters.items() if values]
    return [each for each in objects if all(test(each, values) for test, values in asked)]


def _check_values(key: str, values: Sequence[str]) -> None:
    allowed = _VALUES.get(key)
    for value in values:
        if allowed is not None and value.lower() not in allowed:
            raise InvalidArgumentError(f"invalid filter '{key}={value}': must be one of {', '.join(allowed)}")


def _begins(text: str, values: Sequence[str]) -> bool:
    return text.startswith(tuple(values))


def _found(text: str, values: Sequence[str]) -> bool:
    return any(value == text or _pattern(value).search(text) for value in values)


def _pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error as error:
        raise InvalidArgumentError(
            f"invalid filter value {value!r}: not a regular expression: {error}"
        ) from error


def _is(text: str, values: Sequence[str]) -> bool:
    return text.lower() in (value.lower() for value in values)


def has_labels(labels: Mapping[str, str], values: Sequence[str]) -> bool:
    for value in values:
        key, separator, wanted = value.partition("=")
        if key not in labels or (separator and labels[key] != wanted):
            return False
    return True


def _refers(object_id: str, name: str, values: Sequence[str]) -> bool:
    """Whether one of the references means the object with this id and name."""
    return bool(object_id) and any(value == name or object_id.startswith(value) for value in values)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _engine_labels(snapshot: Snapshot, node: Node) -> Mapping[str, str]:
    status = snapshot.node_statuses.get(node.id)
    return status.description.engine_labels if status is not None else {}


def _node_name(snapshot: Snapshot, task: Task) -> str:
    node = snapshot.nodes.get(task.node_id)
    return node_name(snapshot, node) if node is not None else ""
