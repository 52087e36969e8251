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

DRIVERS = ("json-file", "none")
"""Docker's drivers that nodes have; `local` and those that send output elsewhere are not among them."""

OPTIONS = ("max-size", "max-file")
"""Of json-file."""


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
    if driver.name and driver.name not in DRIVERS:
        raise InvalidArgumentError(f"log-driver must be {' or '.join(DRIVERS)}, not {driver.name!r}")
    if driver.name == "none" and driver.options:
        raise InvalidArgumentError(f"log-opt: none has no options, not {', '.join(sorted(driver.options))}")
    for option in driver.options:
        if option not in OPTIONS:
            raise InvalidArgumentError(
                f"log-opt: json-file has {' and '.join(OPTIONS)} (unknown log opt {option!r} for json-file log driver)"
            )
    _check_sizes(driver.options)


def _check_sizes(options: Mapping[str, str]) -> None:
    if "max-size" in options:
        try:
            size = parse_bytes(options["max-size"])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"log-opt: max-size: {error}") from error
        if size <= 0:
            raise InvalidArgumentError(f"log-opt: max-size must be more than 0, not {options['max-size']!r}")
    files = options.get("max-file", "1")
    if not files.isascii() or not files.isdigit() or int(files) < 1:
        raise InvalidArgumentError(f"log-opt: max-file must be a number from 1, not {files!r}")
    if int(files) > 1 and "max-size" not in options:
        raise InvalidArgumentError("log-opt: max-file cannot be more than 1 when max-size is not set")
    if int(files) > 1:
        raise InvalidArgumentError(
            f"log-opt: max-file must be 1 in this version, not {files}: a full file is begun anew"
        )
