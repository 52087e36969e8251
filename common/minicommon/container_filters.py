"""`minictl ps --filter`: which containers a list shows. The keys are Docker's, and node, service and task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from miniproto.v1 import streams_pb2 as pb

from minicommon.errors import InvalidArgumentError

Test = Callable[[pb.ContainerInfo, str], bool]

STATUSES = ("created", "running", "exited")


def filter_containers(
    containers: Sequence[pb.ContainerInfo], filters: Mapping[str, Sequence[str]], *, all: bool
) -> list[pb.ContainerInfo]:
    """Those that pass, newest first. Without `all` and without a status asked for only those that run.

    Raises InvalidArgumentError for a key or a value that does not exist.
    """
    for key, values in filters.items():
        if key not in _TESTS:
            raise InvalidArgumentError(f"invalid filter '{key}': expected one of {', '.join(sorted(_TESTS))}")
        _check(key, values)
    every = all or "status" in filters or "exited" in filters
    found = [each for each in containers if (every or each.status == "running") and _passes(each, filters)]
    return sorted(found, key=lambda each: (-each.created_at_ns, each.id))


def _passes(container: pb.ContainerInfo, filters: Mapping[str, Sequence[str]]) -> bool:
    """One of a key's values has to match, but all labels have to."""
    for key, values in filters.items():
        outcomes = [_TESTS[key](container, value) for value in values]
        if not (all(outcomes) if key == "label" else any(outcomes)):
            return False
    return True


def _check(key: str, values: Sequence[str]) -> None:
    for value in values:
        if key == "status" and value not in STATUSES:
            raise InvalidArgumentError(
                f"invalid filter 'status={value}': expected one of {', '.join(STATUSES)}"
            )
        if key == "exited" and not value.lstrip("-").isdigit():
            raise InvalidArgumentError(f"invalid filter 'exited={value}': expected an exit code")
        if key == "name":
            _pattern(value)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidArgumentError(f"invalid filter 'name={text}': {error}") from error


def _has_label(container: pb.ContainerInfo, value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in container.labels and (not equals or container.labels[key] == wanted)


def _is_image(container: pb.ContainerInfo, value: str) -> bool:
    name = container.image.partition("@")[0]
    return value in (container.image, name, name.removesuffix(":latest"))


_TESTS: Mapping[str, Test] = {
    "id": lambda container, value: container.id.startswith(value),
    "name": lambda container, value: _pattern(value).search(container.name) is not None,
    "label": _has_label,
    "status": lambda container, value: container.status == value,
    "exited": lambda container, value: container.status == "exited" and container.exit_code == int(value),
    "ancestor": _is_image,
    "node": lambda container, value: value in (container.node_id, container.node_hostname),
    "service": lambda container, value: value == container.service_name,
    "task": lambda container, value: value in (container.id, container.task_name),
}
