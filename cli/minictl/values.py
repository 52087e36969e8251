"""Kinds of flag values: text in, value out, with Go's messages for what cannot be read.

A kind is a name that help shows after the flag ("list", "duration"), and a parser. `bool` and `string` are special
only in how help shows them. Parsers raise ValueError or a MiniError; the flag parser says which flag it was.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Kind:
    """`repeat` collects the values of a flag that is given more than once into a list."""

    __slots__ = ("name", "parse", "repeat")

    def __init__(self, name: str, parse: Callable[[str], Any], *, repeat: bool = False) -> None:
        self.name = name
        self.parse = parse
        self.repeat = repeat


_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def parse_uint(text: str, *, bits: int = 64) -> int:
    """A decimal number of at most `bits` bits without a sign."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if int(text) >> bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return int(text)


def parse_uint32(text: str) -> int:
    return parse_uint(text, bits=32)


def parse_int(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def quote(text: str) -> str:
    """Go's %q, for what a command line holds."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    for char, shown in (("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        escaped = escaped.replace(char, shown)
    return f'"{escaped}"'


def _duration(text: str) -> int:
    from minicommon.units import parse_duration

    value = parse_duration(text)
    if value < 0:
        raise ValueError("duration cannot be negative")
    return value


def _memory(text: str) -> int:
    from minicommon.units import parse_bytes

    return parse_bytes(text)


def _cpus(text: str) -> int:
    from minicommon.units import parse_cpus

    return parse_cpus(text)


def _words(text: str) -> list[str]:
    from minictl.words import split

    return split(text)


def _env(text: str) -> str:
    if text.partition("=")[0].strip() == "":
        raise ValueError(f"invalid environment variable: {text}")
    return text


def _label(text: str) -> str:
    name = text.partition("=")[0]
    if not name.strip():
        raise ValueError(f"invalid label '{text}': empty name")
    if any(char.isspace() for char in name):
        raise ValueError(f"label '{name}' contains whitespaces")
    return text


def _ports(text: str) -> list[Any]:
    from minictl.ports import parse_publish

    return parse_publish(text)


def _filter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def _cidr(text: str) -> str:
    address, separator, size = text.partition("/")
    parts = address.split(".")
    good = separator and size.isdigit() and int(size) <= 32 and len(parts) == 4
    if not good or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        raise ValueError(f"invalid CIDR address: {text}")
    return text


BOOL = Kind("", parse_bool)
STRING = Kind("string", str)
LIST = Kind("list", str, repeat=True)
UINT = Kind("uint", parse_uint)
UINT32 = Kind("uint32", parse_uint32)
INT = Kind("int", parse_int)
DURATION = Kind("duration", _duration)
MEMORY = Kind("bytes", _memory)
CPUS = Kind("decimal", _cpus)
COMMAND = Kind("command", _words)
ENV = Kind("list", _env, repeat=True)
LABEL = Kind("list", _label, repeat=True)
PORT = Kind("port", _ports, repeat=True)
FILTER = Kind("filter", _filter, repeat=True)
NODE_ADDRESS = Kind("node-addr", str)
CIDR = Kind("ipNetSlice", _cidr, repeat=True)
