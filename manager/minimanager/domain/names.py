"""Names: what a service may be called, and what its tasks and containers are called."""

from __future__ import annotations

import re

from minicommon.errors import InvalidArgumentError

from minimanager.domain.objects import Task

MAX_NAME_LENGTH = 63
"""Characters of a DNS label (RFC 1035)."""

_DNS_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")


def check_name(name: str) -> None:
    """Raises InvalidArgumentError unless `name` can name a service or a network (swarmkit `controlapi/common.go`)."""
    if not name:
        raise InvalidArgumentError("meta: name must be provided")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidArgumentError(f"name must be {MAX_NAME_LENGTH} characters or fewer, not {len(name)}")
    if not _DNS_NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"name must be valid as a DNS name component: letters, digits, and '-' or '_' between them, not {name!r}"
        )


def container_name(task: Task) -> str:
    """`<service>.<slot>.<task id>` (swarmkit `api/naming/naming.go`)."""
    return f"{task.name}.{task.id}"
