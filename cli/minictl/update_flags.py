"""The flags that say how a service's tasks are replaced, by an update and by a rollback."""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec, UpdateConfig

    from minictl.flags import Parsed

SECOND = 1_000_000_000
"""Nanoseconds."""

ORDERS = ("stop-first", "start-first")
ACTIONS = ("pause", "continue", "rollback")
"""At the places of their numbers in the API."""

_WHOLE = 1_000_000
"""A ratio of 1 in the API."""

_UNITS = "(ns|us|ms|s|m|h)"


def _ratio(text: str) -> int:
    """Millionths."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"strconv.ParseFloat: parsing {values.quote(text)}: invalid syntax") from None
    if not 0 <= value <= 1:
        raise ValueError("must be from 0 to 1")
    return round(value * _WHOLE)


_RATIO = values.Kind("float", _ratio)


def _flags(name: str, title: str, actions: str) -> tuple[Flag, ...]:
    return (
        Flag(f"{name}-delay", f"Delay between task {title}s {_UNITS} (default 0s)", kind=values.DURATION),
        Flag(
            f"{name}-failure-action",
            f"Action on {title} failure ({actions}) (default pause)",
            kind=values.STRING,
        ),
        Flag(
            f"{name}-max-failure-ratio",
            f"Failure rate to tolerate during {'an update' if name == 'update' else 'a rollback'} (default 0)",
            kind=_RATIO,
        ),
        Flag(
            f"{name}-monitor",
            f"Duration after each task {title} to monitor for failure {_UNITS} (default 5s)",
            kind=values.DURATION,
        ),
        Flag(
            f"{name}-order", f'{title.capitalize()} order ("start-first", "stop-first")', kind=values.STRING
        ),
        Flag(
            f"{name}-parallelism",
            f"Maximum number of tasks {'updated' if name == 'update' else 'rolled back'} simultaneously "
            "(0 to do all at once) (default 1)",
            kind=values.UINT,
        ),
        Flag(
            f"{name}-deadline",
            f"Time without progress after which the {title} counts as failed {_UNITS} (0 = never) (default 10m0s)",
            kind=values.DURATION,
        ),
    )


FLAGS = (
    *_flags("update", "update", '"pause", "continue", "rollback"'),
    *_flags("rollback", "rollback", '"pause", "continue"'),
)


def apply(spec: ServiceSpec, parsed: Parsed) -> None:
    """What was given; a configuration that the spec does not have yet begins with the defaults. Raises CliError."""
    for name in ("update", "rollback"):
        if not parsed.changed(*(flag.name for flag in FLAGS if flag.name.startswith(name))):
            continue
        config: UpdateConfig = getattr(spec, name)
        if not spec.HasField(name):
            config.parallelism = 1
            config.monitor_ns = 5 * SECOND
            config.progress_deadline_ns = 600 * SECOND
        _apply(config, name, parsed)


def _apply(config: UpdateConfig, name: str, parsed: Parsed) -> None:
    for flag, field in (
        ("parallelism", "parallelism"),
        ("delay", "delay_ns"),
        ("monitor", "monitor_ns"),
        ("max-failure-ratio", "max_failure_millionths"),
        ("deadline", "progress_deadline_ns"),
    ):
        if parsed.changed(f"{name}-{flag}"):
            setattr(config, field, parsed[f"{name}-{flag}"])
    for flag, field, names in (("order", "order", ORDERS), ("failure-action", "failure_action", ACTIONS)):
        if parsed.changed(f"{name}-{flag}"):
            given = parsed[f"{name}-{flag}"]
            if given not in names:
                raise CliError(f'invalid --{name}-{flag} "{given}": must be one of {", ".join(names)}')
            number: Any = names.index(given)
            setattr(config, field, number)


def to_json(config: UpdateConfig) -> dict[str, Any]:
    """As Docker's JSON; the deadline is ours."""
    return {
        "Parallelism": config.parallelism,
        **({"Delay": config.delay_ns} if config.delay_ns else {}),
        "FailureAction": ACTIONS[config.failure_action],
        "Monitor": config.monitor_ns,
        "MaxFailureRatio": config.max_failure_millionths / _WHOLE,
        "Order": ORDERS[config.order],
        "Deadline": config.progress_deadline_ns,
    }
