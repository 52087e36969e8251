"""The flags that say which nodes may have a service's tasks, and what they do to a spec."""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed

STRATEGIES = ("spread", "binpack")
"""At the place of their numbers in the API."""


def _preference(text: str) -> str:
    """The key of `spread=KEY`."""
    strategy, separator, key = text.partition("=")
    if not separator or not strategy:
        raise ValueError('could not parse placement preference: must be of the format "<strategy>=<arg>"')
    if strategy != "spread":
        raise ValueError(f"unsupported placement preference {strategy} (only spread is supported)")
    return key


_PREFERENCE = values.Kind("pref", _preference, repeat=True)

_COMMON = (
    Flag(
        "placement-strategy",
        'How to choose among the nodes that fit ("spread", "binpack")',
        kind=values.STRING,
    ),
    Flag(
        "replicas-max-per-node",
        "Maximum number of tasks per node (default 0 = unlimited)",
        kind=values.UINT,
    ),
)

CREATE_FLAGS = (
    *_COMMON,
    Flag("affinity", "Run only where a task of this service runs", kind=values.LIST),
    Flag("anti-affinity", "Do not run where a task of this service runs", kind=values.LIST),
    Flag("constraint", "Placement constraints", kind=values.LIST),
    Flag("placement-pref", "Add a placement preference", kind=_PREFERENCE),
)

UPDATE_FLAGS = (
    *_COMMON,
    Flag("affinity-add", "Add a service to run beside", kind=values.LIST),
    Flag("affinity-rm", "Remove a service to run beside", kind=values.LIST),
    Flag("anti-affinity-add", "Add a service to keep apart from", kind=values.LIST),
    Flag("anti-affinity-rm", "Remove a service to keep apart from", kind=values.LIST),
    Flag("constraint-add", "Add or update a placement constraint", kind=values.LIST),
    Flag("constraint-rm", "Remove a constraint", kind=values.LIST),
    Flag("placement-pref-add", "Add a placement preference", kind=_PREFERENCE),
    Flag("placement-pref-rm", "Remove a placement preference", kind=_PREFERENCE),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given. Raises CliError."""
    spec.placement.constraints.extend(parsed["constraint"])
    spec.placement.affinity.extend(parsed["affinity"])
    spec.placement.anti_affinity.extend(parsed["anti-affinity"])
    spec.placement.spread_over.extend(parsed["placement-pref"])
    _apply_common(spec, parsed)


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given. Raises CliError.

    All but the preferences, whose order counts, are kept sorted, as Docker does with constraints.
    """
    placement = spec.placement
    for flag, texts in (
        ("constraint", placement.constraints),
        ("affinity", placement.affinity),
        ("anti-affinity", placement.anti_affinity),
    ):
        if parsed.changed(f"{flag}-add", f"{flag}-rm"):
            texts[:] = sorted({*texts, *parsed[f"{flag}-add"]} - set(parsed[f"{flag}-rm"]))
    if parsed.changed("placement-pref-add", "placement-pref-rm"):
        levels = [key for key in placement.spread_over if key not in parsed["placement-pref-rm"]]
        placement.spread_over[:] = [*levels, *parsed["placement-pref-add"]]
    _apply_common(spec, parsed)


def _apply_common(spec: ServiceSpec, parsed: Parsed) -> None:
    if parsed.changed("replicas-max-per-node"):
        spec.placement.max_replicas = parsed["replicas-max-per-node"]
    if parsed.changed("placement-strategy"):
        strategy = parsed["placement-strategy"]
        if strategy not in STRATEGIES:
            raise CliError(f'invalid placement strategy "{strategy}": must be "spread" or "binpack"')
        number: Any = STRATEGIES.index(strategy)
        spec.placement.strategy = number
