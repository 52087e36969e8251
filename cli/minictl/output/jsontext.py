"""JSON as Docker prints it."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def compact(value: Any) -> str:
    """On one line, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def indented(value: Any) -> str:
    """With four spaces per level, as `inspect` prints it."""
    return json.dumps(value, ensure_ascii=False, indent=4)
