"""Whether a service's placement may be stored."""

from __future__ import annotations

import re
from dataclasses import replace

from minicommon.errors import InvalidArgumentError

from minimanager.domain.constraints import ENGINE_LABEL, NODE_LABEL, normal_key, parse_constraint
from minimanager.domain.names import check_name
from minimanager.domain.objects import Placement, Platform

MAX_CONSTRAINTS = 100
MAX_LEVELS = 8
"""Of nested spreading: a continent, a country, a city, a site, a room, a row, a rack and one to spare."""

MAX_NEIGHBORS = 100
"""Services named by affinity and anti-affinity together."""

MAX_PLATFORMS = 100
"""Of one image; the richest on Docker Hub have some twenty."""

_PLATFORM_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")

MAX_TEXT_BYTES = 1000
"""Of one constraint or preference."""

MAX_PER_NODE = 1_000_000
"""As many as a service may have replicas."""


def validate_placement(placement: Placement, service: str) -> Placement:
    """The placement of the service of this name in normal form: keys in lower case but for the labels.

    Raises InvalidArgumentError.
    """
    if len(placement.constraints) > MAX_CONSTRAINTS:
        raise InvalidArgumentError(
            f"placement: there may be at most {MAX_CONSTRAINTS} constraints, not {len(placement.constraints)}"
        )
    if len(placement.spread_over) > MAX_LEVELS:
        raise InvalidArgumentError(
            f"placement: there may be at most {MAX_LEVELS} preferences, not {len(placement.spread_over)}"
        )
    for text in (*placement.constraints, *placement.spread_over):
        if len(text.encode()) > MAX_TEXT_BYTES or "\0" in text:
            raise InvalidArgumentError(
                f"placement: a constraint or preference must be at most {MAX_TEXT_BYTES} bytes without NUL, "
                f"not {text[:40]!r}..."
            )
    for text in placement.constraints:
        parse_constraint(text)
    if not 0 <= placement.max_replicas <= MAX_PER_NODE:
        raise InvalidArgumentError(
            f"placement: max replicas per node must be 0 (no limit) to {MAX_PER_NODE}, not {placement.max_replicas}"
        )
    _check_neighbors(placement, service)
    _check_platforms(placement.platforms)
    return replace(placement, spread_over=tuple(_level(text) for text in placement.spread_over))


def _check_neighbors(placement: Placement, service: str) -> None:
    names = (*placement.affinity, *placement.anti_affinity)
    if len(names) > MAX_NEIGHBORS:
        raise InvalidArgumentError(
            f"placement: affinity and anti-affinity may name at most {MAX_NEIGHBORS} services, not {len(names)}"
        )
    for name in names:
        check_name(name)
        if name == service:
            raise InvalidArgumentError(
                f"placement: a service has no affinity to itself, {name!r}; "
                "how many of its tasks a node may have is said by max replicas per node"
            )
    both = sorted(set(placement.affinity) & set(placement.anti_affinity))
    if both:
        raise InvalidArgumentError(f"placement: affinity and anti-affinity both name {both[0]!r}")


def _check_platforms(platforms: tuple[Platform, ...]) -> None:
    if len(platforms) > MAX_PLATFORMS:
        raise InvalidArgumentError(
            f"placement: there may be at most {MAX_PLATFORMS} platforms, not {len(platforms)}"
        )
    for platform in platforms:
        for word in (platform.os, platform.architecture):
            if word and not _PLATFORM_WORD.fullmatch(word):
                raise InvalidArgumentError(
                    "placement: a platform is an operating system and an architecture of letters, digits, "
                    f"'_' and '-', not {word!r}"
                )


def _level(text: str) -> str:
    key = normal_key(text)
    if key is None or not key.startswith((NODE_LABEL, ENGINE_LABEL)):
        raise InvalidArgumentError(
            f"placement: tasks are spread over {NODE_LABEL}LABEL or {ENGINE_LABEL}LABEL, not {text!r}"
        )
    return key
