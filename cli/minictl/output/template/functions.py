"""The functions of a template, and how Go prints a value."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def is_true(value: Any) -> bool:
    """Go's truth: not zero, not empty, not nil."""
    return bool(value)


def show(value: Any) -> str:
    """As Go's fmt prints a value with %v."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{show(key)}:{show(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(show(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _json(value: Any) -> str:
    from minictl.output.jsontext import compact

    return compact(value)


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator) if separator else list(text)


def _join(items: list[Any], separator: str) -> str:
    return separator.join(show(item) for item in items)


def _title(text: str) -> str:
    result = []
    previous = " "
    for char in text:
        result.append(char.upper() if previous.isspace() else char)
        previous = char
    return "".join(result)


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text[: int(length)]


def _spaced(*values: Any) -> str:
    """Go's Sprint: a space between operands when neither is text."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += show(value)
    return out


def _printf(format: str, *values: Any) -> str:
    out = []
    rest = list(values)
    at = 0
    while at < len(format):
        if format[at] != "%":
            out.append(format[at])
            at += 1
            continue
        end = at + 1
        while end < len(format) and format[end] in "+-# 0123456789.":
            end += 1
        verb = format[end : end + 1]
        spec = format[at + 1 : end]
        at = end + 1
        if verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(verb, spec, rest.pop(0)))
    return "".join(out)


def _verb(verb: str, spec: str, value: Any) -> str:
    if verb in ("v", "s"):
        return f"%{spec}s" % show(value)
    if verb == "q":
        from minictl.values import quote

        return f"%{spec}s" % quote(show(value))
    if verb in ("d", "x", "X", "o", "f", "e", "g", "c"):
        return str(f"%{spec}{verb}" % value)
    if verb == "t":
        return show(bool(value))
    return f"%!{verb}({show(value)})"


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _and(*values: Any) -> Any:
    return next((value for value in values if not is_true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if is_true(value)), values[-1])


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "eq": _equal,
    "ge": lambda left, right: left >= right,
    "gt": lambda left, right: left > right,
    "index": _index,
    "join": _join,
    "json": _json,
    "le": lambda left, right: left <= right,
    "len": len,
    "lower": lambda text: text.lower(),
    "lt": lambda left, right: left < right,
    "ne": lambda left, right: left != right,
    "not": lambda value: not is_true(value),
    "or": _or,
    "pad": _pad,
    "print": _spaced,
    "printf": _printf,
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "split": _split,
    "title": _title,
    "truncate": _truncate,
    "upper": lambda text: text.upper(),
}

HEADING_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **FUNCTIONS,
    **dict.fromkeys(("json", "lower", "title", "truncate", "upper"), lambda text, *_: text),
    "join": lambda text, *_: text,
    "split": lambda text, *_: text,
}
"""For the line of headings, which stand for values of every type."""
