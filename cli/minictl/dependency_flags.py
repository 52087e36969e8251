"""The flags that say which services must have come how far before a service's tasks start."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed

CONDITIONS = ("started", "healthy", "completed")
"""At the place of their numbers in the API."""


def _dependency(text: str) -> tuple[str, int]:
    """`db`, which means `db=started`, `db=healthy`, `migrate=completed`."""
    name, separator, condition = text.partition("=")
    if not name:
        raise ValueError(f"must be SERVICE or SERVICE=CONDITION, not {values.quote(text)}")
    if separator and condition not in CONDITIONS:
        raise ValueError(
            f"the condition must be one of {', '.join(CONDITIONS)}, not {values.quote(condition)}"
        )
    return name, CONDITIONS.index(condition) if separator else 0


_DEPENDENCY = values.Kind("service", _dependency, repeat=True)

CREATE_FLAGS = (
    Flag("depends-on", "Start after another service: SERVICE[=started|healthy|completed]", kind=_DEPENDENCY),
)

UPDATE_FLAGS = (
    Flag(
        "depends-on-add",
        "Add or update a service to start after: SERVICE[=started|healthy|completed]",
        kind=_DEPENDENCY,
    ),
    Flag("depends-on-rm", "Remove a service to start after", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given; the last of several for one service counts."""
    _set(spec, dict(parsed["depends-on"]).items())


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given."""
    if not parsed.changed("depends-on-add", "depends-on-rm"):
        return
    wanted: dict[str, int] = {each.service: each.condition for each in spec.depends_on}
    wanted.update(parsed["depends-on-add"])
    for name in parsed["depends-on-rm"]:
        wanted.pop(name, None)
    _set(spec, sorted(wanted.items()))


def _set(spec: ServiceSpec, wanted: Iterable[tuple[str, Any]]) -> None:
    from minictl.client import messages

    spec.ClearField("depends_on")
    for name, condition in wanted:
        spec.depends_on.append(messages.Dependency(service=name, condition=condition))


def to_json(spec: ServiceSpec) -> list[dict[str, str]]:
    """As `service inspect` shows them."""
    return [{"Service": each.service, "Condition": CONDITIONS[each.condition]} for each in spec.depends_on]
