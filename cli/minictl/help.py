"""Help texts in Docker's layout. The wrapping of flag usages is that of spf13/pflag."""

from __future__ import annotations

import os

from minictl import tree
from minictl.flags import HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from minictl.command import Command, Group
    from minictl.flags import Flag

_DEFAULT_WIDTH = 80
"""Columns, where standard input is no terminal."""

_LEAST_USAGE = 24
"""Columns that a usage text needs beside its flag; with fewer it moves to the next line."""

_SLOP = 5
"""A line may be this much longer when that saves a short last line."""


def terminal_width() -> int:
    """Columns of the terminal on standard input."""
    try:
        return os.get_terminal_size(0).columns or _DEFAULT_WIDTH
    except OSError:
        return _DEFAULT_WIDTH


def top(width: int) -> str:
    """`minictl --help`."""
    by_name = {group.name: group.usage for group in tree.GROUPS}
    parts = [
        f"Usage:  minictl [OPTIONS] COMMAND\n\n{tree.DESCRIPTION}\n",
        _list("Management Commands:", [(name, by_name[name]) for name in tree.MANAGEMENT]),
        _list("Swarm Commands:", [(name, by_name[name]) for name in tree.SWARM]),
        _list("Commands:", [(name, target[2]) for name, target in tree.SHORTCUTS.items()]),
        "Global Options:\n" + flag_usages(tree.GLOBAL_FLAGS, width - 1),
        "Run 'minictl COMMAND --help' for more information on a command.\n",
    ]
    return "\n".join(parts)


def group(group: Group) -> str:
    """`minictl service --help`."""
    rows = sorted((command.name, command.usage) for command in group.commands())
    commands = _list("Commands:", rows)
    return (
        f"Usage:  minictl {group.name} COMMAND\n\n{group.usage}\n\n{commands}\n"
        f"Run 'minictl {group.name} COMMAND --help' for more information on a command.\n"
    )


def command(command: Command, path: str, width: int) -> str:
    """`minictl service ls --help`."""
    text = f"Usage:  {command.usage_line(path)}\n\n{command.usage}\n"
    if command.shown_aliases:
        text += f"\nAliases:\n  {', '.join(command.shown_aliases)}\n"
    if command.flags:
        text += "\nOptions:\n" + flag_usages(command.flags, width - 1)
    return text


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(11, max(len(name) for name, _ in rows))
    return title + "\n" + "".join(f"  {name:<{width}} {usage}\n" for name, usage in rows)


def flag_usages(flags: Iterable[Flag], columns: int) -> str:
    """One entry per flag, sorted by name, aligned and wrapped to `columns`."""
    shown = sorted(
        (flag for flag in flags if flag is not HELP and not flag.later), key=lambda flag: flag.name
    )
    heads = [_head(flag) for flag in shown]
    indent = max(map(len, heads)) + 3
    return "".join(
        f"{head:<{indent}}{wrap(_text(flag), indent, columns)}\n"
        for head, flag in zip(heads, shown, strict=True)
    )


def _head(flag: Flag) -> str:
    short = f"  -{flag.short}, " if flag.short else "      "
    return f"{short}--{flag.name}" + (f" {flag.kind.name}" if flag.kind.name else "")


def _text(flag: Flag) -> str:
    return flag.usage + (f" (default {flag.shown})" if flag.shown else "")


def wrap(text: str, indent: int, columns: int) -> str:
    """`text` in lines of at most `columns`, the first of which begins at column `indent`."""
    lead = ""
    width = columns - indent
    if width < _LEAST_USAGE:
        indent = 16
        width = columns - indent
        lead = "\n" + " " * indent
    margin = "\n" + " " * indent
    if width < _LEAST_USAGE:
        return lead + text.replace("\n", margin)
    lines = []
    while True:
        line, text = _break(text, width - _SLOP)
        lines.append(line.replace("\n", margin))
        if not text:
            return lead + margin.join(lines)


def _break(text: str, width: int) -> tuple[str, str]:
    if width + _SLOP > len(text):
        return text, ""
    head = text[:width]
    space = max(head.rfind(char) for char in " \t\n")
    if space <= 0:
        return text, ""
    newline = head.rfind("\n")
    if 0 < newline < space:
        return text[:newline], text[newline + 1 :]
    return text[:space], text[space + 1 :]
