"""Durations, sizes and CPUs as text, read and written as Docker's tools do.

Durations are Go's (`1m30s`), as integers of nanoseconds; sizes are bytes. What cannot be read raises
InvalidArgumentError with the text that a Docker user knows.
"""

from __future__ import annotations

import re
from fractions import Fraction

from minicommon.errors import InvalidArgumentError

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

MAX_INT64 = (1 << 63) - 1
"""The longest duration, in nanoseconds, and the biggest size, in bytes, that Go's types hold."""

_DURATION_UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "\N{MICRO SIGN}s": MICROSECOND,
    "\N{GREEK SMALL LETTER MU}s": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_DURATION_PART = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>[^0-9.]*)")

_DECIMAL = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?P<suffix>.*)", re.DOTALL)
_SIZE_SUFFIX = re.compile(r"(?:b|(?P<prefix>[kmgtp])(?:i?b)?)?", re.IGNORECASE)
_PREFIXES = "kmgtp"

_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


# --- durations ---


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as `2h45m`, `1.5s` or `-10ms` (Go's `time.ParseDuration`)."""
    negative, rest = text.startswith("-"), text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = Fraction(0)
    position = 0
    while position < len(rest) or not rest:
        part = _DURATION_PART.match(rest, position)
        if part is None:
            raise InvalidArgumentError(f'time: invalid duration "{text}"')
        total += Fraction(part["number"].rstrip(".")) * _duration_unit(part["unit"], text)
        position = part.end()
    nanoseconds = int(total)
    if nanoseconds > MAX_INT64:
        raise InvalidArgumentError(f'time: invalid duration "{text}"')
    return -nanoseconds if negative else nanoseconds


def _duration_unit(unit: str, text: str) -> int:
    if not unit:
        raise InvalidArgumentError(f'time: missing unit in duration "{text}"')
    if unit not in _DURATION_UNITS:
        raise InvalidArgumentError(f'time: unknown unit "{unit}" in duration "{text}"')
    return _DURATION_UNITS[unit]


def format_duration(nanoseconds: int) -> str:
    """As Go prints it: `2160h0m0s`, `1m30s`, `500ms`, `0s`."""
    if nanoseconds < 0:
        return f"-{format_duration(-nanoseconds)}"
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < SECOND:
        for unit, size in (("ms", MILLISECOND), ("\N{MICRO SIGN}s", MICROSECOND)):
            if nanoseconds >= size:
                return _fraction(nanoseconds, size) + unit
        return f"{nanoseconds}ns"
    hours, rest = divmod(nanoseconds, HOUR)
    minutes, rest = divmod(rest, MINUTE)
    seconds = f"{_fraction(rest, SECOND)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def human_duration(nanoseconds: int) -> str:
    """Roughly how long, in words: `About a minute`, `5 hours` (docker/go-units `HumanDuration`)."""
    seconds, minutes = int(nanoseconds / SECOND), int(nanoseconds / MINUTE)
    hours = int(nanoseconds / HOUR + 0.5)
    if seconds < 60:
        return _seconds(seconds)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, size, word in (
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 730, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // size} {word}"
    return f"{int(nanoseconds / HOUR) // 24 // 365} years"


def _seconds(seconds: int) -> str:
    if seconds < 1:
        return "Less than a second"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


# --- sizes ---


def parse_bytes(text: str) -> int:
    """Bytes of `512m`, `1g`, `64MiB`, `1.5 GB`: every prefix is a power of 1024 (docker/go-units `RAMInBytes`)."""
    size = _SIZE.fullmatch(text)
    if size is None:
        raise InvalidArgumentError(f"invalid size: '{text}'")
    suffix = _SIZE_SUFFIX.fullmatch(size["suffix"])
    if suffix is None:
        raise InvalidArgumentError(f"invalid suffix: '{size['suffix'].lower()}'")
    prefix = (suffix["prefix"] or "").lower()
    exponent = _PREFIXES.index(prefix) + 1 if prefix else 0
    total = int(Fraction(size["number"].rstrip(".")) * 1024**exponent)
    if total > MAX_INT64:
        raise InvalidArgumentError(f"invalid size: '{text}': must be at most {MAX_INT64} bytes")
    return total


def human_size(size: float, *, digits: int = 4) -> str:
    """In powers of 1000, four digits unless told otherwise: `3.4MB` (docker/go-units `HumanSize`)."""
    return _scaled(size, 1000, _DECIMAL_UNITS, digits=digits)


def bytes_size(size: float) -> str:
    """In powers of 1024, four digits: `1.5GiB` (docker/go-units `BytesSize`)."""
    return _scaled(size, 1024, _BINARY_UNITS)


def _scaled(size: float, base: int, units: tuple[str, ...], *, digits: int = 4) -> str:
    scaled, index = float(size), 0
    while scaled >= base and index < len(units) - 1:
        scaled /= base
        index += 1
    return f"{scaled:.{digits}g}{units[index]}"


# --- CPUs ---


def parse_cpus(text: str) -> int:
    """Billionths of a CPU of `1.5`. Raises InvalidArgumentError, also when there are more than nine decimals."""
    if not _DECIMAL.fullmatch(text):
        raise InvalidArgumentError(f"failed to parse {text} as a rational number")
    nano = Fraction(text.rstrip(".")) * 1_000_000_000
    if nano.denominator != 1:
        raise InvalidArgumentError("value is too precise")
    if nano > MAX_INT64:
        raise InvalidArgumentError(f"invalid cpu value {text}: must be at most {MAX_INT64 // 1_000_000_000}")
    return int(nano)


def format_cpus(nano_cpus: int) -> str:
    """With three decimals, `1.500`; nothing for none."""
    if nano_cpus == 0:
        return ""
    thousandths = (nano_cpus + 500_000) // 1_000_000
    return f"{thousandths // 1000}.{thousandths % 1000:03}"
