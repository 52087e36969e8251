"""What every stored object has, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECOND = 1_000_000_000
"""Nanoseconds."""

HOUR = 3600 * SECOND
"""Nanoseconds."""

_EMPTY: Mapping[str, str] = {}


def no_labels() -> Mapping[str, str]:
    """The default of fields that hold labels: one empty mapping for all."""
    return _EMPTY


@dataclass(frozen=True, slots=True)
class Meta:
    version: int = 0
    created_at_ns: int = 0
    updated_at_ns: int = 0
