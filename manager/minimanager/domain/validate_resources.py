"""Whether what a task reserves by kind, and where its output goes, may be stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from minicommon.errors import InvalidArgumentError
from minicommon.units import parse_bytes

from minimanager.domain.objects import GenericResource, LogDriver

_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

MAX_COUNT = 1_000_000_000
"""Of one kind: more is a slip of the finger."""

MAX_KINDS = 100

MAX_FILES = 1000
"""Of one container's output: each has to be opened to read it."""

_FILES = ("compress", "max-file", "max-size")

DRIVERS: Mapping[str, tuple[str, ...]] = {
    "json-file": _FILES,
    "local": _FILES,
    "journald": (),
    "none": (),
}
"""Docker's drivers that nodes have, with their options. `journald` is there on nodes with a Docker Engine only."""


def check_generic(reserved: Iterable[GenericResource]) -> None:
    """Raises InvalidArgumentError."""
    kinds: set[str] = set()
    for each in reserved:
        if not _KIND.fullmatch(each.kind):
            raise InvalidArgumentError(
                "reservations: a generic resource's kind must be at most 63 letters, digits, '_', '.' and '-', "
                f"not {each.kind!r}"
            )
        if each.ids:
            raise InvalidArgumentError(
                f"reservations: {each.kind} is reserved by number, its names are the scheduler's to choose: "
                f"not {', '.join(each.ids)}"
            )
        if not 1 <= each.count <= MAX_COUNT:
            raise InvalidArgumentError(
                f"reservations: {each.kind} must be 1 to {MAX_COUNT}, not {each.count}"
            )
        if each.kind in kinds:
            raise InvalidArgumentError(f"reservations: {each.kind} is given twice")
        kinds.add(each.kind)
    if len(kinds) > MAX_KINDS:
        raise InvalidArgumentError(
            f"reservations: there may be at most {MAX_KINDS} generic resources, not {len(kinds)}"
        )


def check_log_driver(driver: LogDriver) -> None:
    """Raises InvalidArgumentError."""
    name = driver.name or "json-file"
    allowed = DRIVERS.get(name)
    if allowed is None:
        raise InvalidArgumentError(f"log-driver must be one of {', '.join(DRIVERS)}, not {driver.name!r}")
    for option in driver.options:
        if not allowed:
            raise InvalidArgumentError(
                f"log-opt: {name} has no options, not {', '.join(sorted(driver.options))}"
            )
        if option not in allowed:
            raise InvalidArgumentError(
                f"log-opt: {name} has {', '.join(allowed)} (unknown log opt {option!r} for {name} log driver)"
            )
    _check_files(name, driver.options)


def _check_files(name: str, options: Mapping[str, str]) -> None:
    if "max-size" in options:
        try:
            size = parse_bytes(options["max-size"])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"log-opt: max-size: {error}") from error
        if size <= 0:
            raise InvalidArgumentError(f"log-opt: max-size must be more than 0, not {options['max-size']!r}")
    files = options.get("max-file", "5" if name == "local" else "1")
    if not files.isascii() or not files.isdigit() or not 1 <= int(files) <= MAX_FILES:
        raise InvalidArgumentError(f"log-opt: max-file must be a number from 1 to {MAX_FILES}, not {files!r}")
    limited = "max-size" in options or name == "local"
    if int(files) > 1 and not limited:
        raise InvalidArgumentError("log-opt: max-file cannot be more than 1 when max-size is not set")
    compress = options.get("compress", "false")
    if compress not in ("true", "false"):
        raise InvalidArgumentError(f"log-opt: compress must be true or false, not {compress!r}")
    if compress == "true" and (int(files) < 2 or not limited):
        raise InvalidArgumentError(
            "log-opt: compress cannot be true when max-file is less than 2 or max-size is not set"
        )
