"""Durations, sizes and CPUs as Docker's command line reads and prints them.

`minicommon.units` has the same for every process, with exact fractions; this module is the part that a command
needs, cheap to import. A test compares the two.
"""

from __future__ import annotations

SECOND = 1_000_000_000
"""Nanoseconds."""

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_MAX_DURATION = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration: "1m30s", "1.5h", "500ms", "0". Raises ValueError with Go's words."""
    from minictl.values import quote

    invalid = ValueError(f"time: invalid duration {quote(text)}")
    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        whole, rest = _take(rest, digits=True)
        fraction = ""
        if rest.startswith("."):
            fraction, rest = _take(rest[1:], digits=True)
        if not whole and not fraction:
            raise invalid
        unit, rest = _take(rest, digits=False)
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        total += int(whole or "0") * _UNITS[unit]
        total += int(fraction or "0") * _UNITS[unit] // 10 ** len(fraction)
        if total > _MAX_DURATION:
            raise invalid
    return sign * total


def _take(text: str, *, digits: bool) -> tuple[str, str]:
    """The leading digits, or the leading characters up to a digit or a dot; and what follows."""
    at = 0
    while at < len(text):
        is_digit = text[at].isascii() and text[at].isdigit()
        if (digits and not is_digit) or (not digits and (is_digit or text[at] == ".")):
            break
        at += 1
    return text[:at], text[at:]


def format_duration(nanoseconds: int) -> str:
    """As Go prints a time.Duration: "1m30s", "2160h0m0s", "1.5s", "0s"."""
    if nanoseconds < 0:
        return "-" + format_duration(-nanoseconds)
    if nanoseconds < SECOND:
        for unit, name in ((1_000_000, "ms"), (1_000, "µs")):
            if nanoseconds >= unit:
                return _decimal(nanoseconds, unit) + name
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, MINUTE)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, SECOND) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


def human_duration(nanoseconds: int) -> str:
    """As docker/go-units HumanDuration: "Less than a second", "About a minute", "2 hours"."""
    seconds = max(nanoseconds, 0) // SECOND
    minutes = seconds // 60
    hours = (seconds + 1800) // 3600
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{seconds // 3600 // 24 // 365} years"


_MEMORY_UNITS = "kmgtp"


def parse_memory(text: str) -> int:
    """Bytes of "512m", "1.5GiB", "1024": powers of 1024. Raises ValueError with go-units' words."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    suffix = text[len(number) :].strip().lower()
    whole, dot, fraction = number.partition(".")
    digits = whole + fraction
    if not digits.isascii() or not digits.isdigit() or not whole or (dot and not fraction):
        raise ValueError(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        power = 0
    elif suffix[0] in _MEMORY_UNITS and suffix[1:] in ("", "b", "ib"):
        power = _MEMORY_UNITS.index(suffix[0]) + 1
    else:
        raise ValueError(f"invalid suffix: '{suffix}'")
    value: int = int(digits) * 1024**power // 10 ** len(fraction)
    if value >> 63:
        raise ValueError(f"invalid size: '{text}'")
    return value


def parse_cpus(text: str) -> int:
    """Billionths of a CPU of "1.5", "0.001" or "3/4". Raises ValueError with Docker's words."""
    from fractions import Fraction

    try:
        value = Fraction(text) * 1_000_000_000
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if value.denominator != 1:
        raise ValueError("value is too precise")
    if value < 0 or value.numerator >> 63:
        raise ValueError(f"{text} is out of range: CPUs cannot be negative")
    return value.numerator


def human_size(size: int) -> str:
    """As docker/go-units HumanSize: powers of 1000, four significant digits: "3.412MB"."""
    return _sized(size, 1000, ("B", "kB", "MB", "GB", "TB", "PB", "EB"), 4, "")


def image_size(size: int) -> str:
    """As `image ls` shows a size: three significant digits."""
    return _sized(size, 1000, ("B", "kB", "MB", "GB", "TB", "PB", "EB"), 3, "")


def bytes_size(size: int) -> str:
    """As docker/go-units BytesSize: powers of 1024, four significant digits: "1.5GiB"."""
    return _sized(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"), 4, "")


def _sized(size: float, base: int, units: tuple[str, ...], digits: int, separator: str) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return f"{size:.{digits}g}{separator}{units[index]}"
