"""The flags for resources: limits, what is reserved, what only some nodes have, and where output goes."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed


def _generic(text: str) -> tuple[str, int]:
    """`GPU=2`; which ones is for the scheduler to say."""
    kind, separator, value = text.partition("=")
    if not separator or not kind or not value:
        raise ValueError(f"invalid generic resource specification: {text}: must be KIND=COUNT")
    if not value.isascii() or not value.isdigit():
        raise ValueError(
            f"invalid generic-resource request `{kind}={value}`, Named Generic Resources is not supported for "
            "service create or update"
        )
    return kind, values.parse_uint(value, bits=63)


def _swappiness(text: str) -> int:
    percent = values.parse_int(text)
    if not -1 <= percent <= 100:
        raise ValueError("must be 0 to 100, or -1 for the node's own setting")
    return percent


def _option(text: str) -> tuple[str, str]:
    """`max-size=10m`."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"invalid log option {values.quote(text)}: must be NAME=VALUE")
    return name, value


_GENERIC = values.Kind("list", _generic, repeat=True)
_OPTION = values.Kind("list", _option, repeat=True)

_COMMON = (
    Flag("limit-cpu", "Limit CPUs", kind=values.CPUS),
    Flag("limit-memory", "Limit Memory", kind=values.MEMORY),
    Flag("limit-pids", "Limit maximum number of processes (default 0 = unlimited)", kind=values.INT),
    Flag(
        "log-driver",
        'Logging driver for service ("json-file", "local", "journald", "none")',
        kind=values.STRING,
    ),
    Flag("log-opt", "Logging driver options", kind=_OPTION),
    Flag(
        "memory-swappiness",
        "Tune memory swappiness (0-100), -1 to reset to default",
        kind=values.Kind("int", _swappiness),
        shown="-1",
    ),
    Flag("reserve-cpu", "Reserve CPUs", kind=values.CPUS),
    Flag("reserve-memory", "Reserve Memory", kind=values.MEMORY),
)

CREATE_FLAGS = (*_COMMON, Flag("generic-resource", "User defined resources", kind=_GENERIC))

UPDATE_FLAGS = (
    *_COMMON,
    Flag("generic-resource-add", "Add a Generic resource", kind=_GENERIC),
    Flag("generic-resource-rm", "Remove a Generic resource", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given."""
    _set_generic(spec, parsed["generic-resource"])
    _apply_common(spec, parsed)


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given; an added resource takes the place of the same kind."""
    if parsed.changed("generic-resource-add", "generic-resource-rm"):
        found = {item.kind: item.count for item in spec.task.resources.reservations.generic}
        found |= dict(parsed["generic-resource-add"])
        gone = {kind.partition("=")[0] for kind in parsed["generic-resource-rm"]}
        _set_generic(spec, [(kind, count) for kind, count in sorted(found.items()) if kind not in gone])
    _apply_common(spec, parsed)


def _set_generic(spec: ServiceSpec, resources: Iterable[tuple[str, int]]) -> None:
    from minictl.client import messages

    reservations = spec.task.resources.reservations
    reservations.ClearField("generic")
    reservations.generic.extend(
        [messages.GenericResource(kind=kind, count=count) for kind, count in resources]
    )


def _apply_common(spec: ServiceSpec, parsed: Parsed) -> None:
    limits, reservations = spec.task.resources.limits, spec.task.resources.reservations
    for flag, target, field in (
        ("limit-cpu", limits, "nano_cpus"),
        ("limit-memory", limits, "memory_bytes"),
        ("limit-pids", limits, "pids"),
        ("reserve-cpu", reservations, "nano_cpus"),
        ("reserve-memory", reservations, "memory_bytes"),
    ):
        if parsed.changed(flag):
            setattr(target, field, parsed[flag])
    if parsed.changed("memory-swappiness"):
        limits.swappiness.percent = parsed["memory-swappiness"]
    _apply_logging(spec, parsed)


def _apply_logging(spec: ServiceSpec, parsed: Parsed) -> None:
    """Another driver begins without the options of the one before."""
    driver: Any = spec.task.log_driver
    if parsed.changed("log-driver"):
        if driver.name != parsed["log-driver"]:
            driver.options.clear()
        driver.name = parsed["log-driver"]
    if parsed.changed("log-opt"):
        driver.options.clear()
        for name, value in parsed["log-opt"]:
            driver.options[name] = value
