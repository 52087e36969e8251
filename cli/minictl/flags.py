"""Flags as Docker's users know them: the rules of spf13/pflag.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`; boolean flags need no value and can be bundled
(`-dq`); `--` ends the flags. Flags and arguments may be mixed, except for commands that hand the rest to a container
(`interspersed=False`): there the first argument ends the flags.

A Docker flag that this version has not got is declared `later`: it is refused by name, never ignored. So is one that
makes no sense here, which says why.
"""

from __future__ import annotations

from minicommon.errors import MiniError

from minictl import values
from minictl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minictl.values import Kind


class Flag:
    """One flag: `default` is the value without it, `shown` what help says of it ("" says nothing)."""

    __slots__ = ("default", "kind", "later", "name", "short", "shown", "usage", "why")

    def __init__(
        self,
        name: str,
        usage: str,
        *,
        short: str = "",
        kind: Kind = values.BOOL,
        default: Any = None,
        shown: str = "",
        later: bool = False,
        why: str = "",
    ) -> None:
        self.name = name
        self.usage = usage
        self.short = short
        self.kind = kind
        self.default = default if default is not None else _zero(kind)
        self.shown = shown
        self.later = later or bool(why)
        self.why = why

    @property
    def is_bool(self) -> bool:
        return self.kind is values.BOOL

    @property
    def title(self) -> str:
        """As messages name it: `-p, --publish`."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


def _zero(kind: Kind) -> Any:
    if kind.repeat:
        return []
    if kind is values.BOOL:
        return False
    return "" if kind.name in ("string", "node-addr") else None


class Parsed:
    """The flags' values, and the arguments that are left."""

    __slots__ = ("_changed", "_values", "arguments")

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._values: dict[str, Any] = {flag.name: flag.default for flag in flags}
        self._changed: set[str] = set()
        self.arguments: list[str] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def changed(self, *names: str) -> bool:
        """Whether any of the flags was given."""
        return any(name in self._changed for name in names)

    def given(self) -> set[str]:
        """The names of all flags that were given."""
        return set(self._changed)

    def set(self, flag: Flag, text: str) -> None:
        """Take a value from the command line. Raises UsageError."""
        if flag.why:
            raise UsageError(f"the flag {flag.title} {flag.why}")
        if flag.later:
            raise UsageError(f"the flag {flag.title} is not supported by this version of minictl")
        try:
            value = flag.kind.parse(text)
        except (ValueError, MiniError) as error:
            raise UsageError(
                f'invalid argument {values.quote(text)} for "{flag.title}" flag: {error}'
            ) from None
        if flag.kind.repeat:
            value = ([*self._values[flag.name]] if flag.name in self._changed else []) + [value]
        self._values[flag.name] = value
        self._changed.add(flag.name)


HELP = Flag("help", "Print usage", short="h")


def parse(flags: Sequence[Flag], words: Sequence[str], *, interspersed: bool = True) -> Parsed:
    """Sort `words` into flags and arguments. Raises UsageError."""
    known = [*flags, HELP]
    parsed = Parsed(known)
    by_name = {flag.name: flag for flag in known}
    by_short = {flag.short: flag for flag in known if flag.short}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.arguments += rest
            break
        if word.startswith("--"):
            _long(parsed, by_name, word, rest)
        elif len(word) > 1 and word[0] == "-":
            _shorts(parsed, by_short, word, rest)
        elif interspersed:
            parsed.arguments.append(word)
        else:
            parsed.arguments += [word, *rest]
            break
        if parsed.changed("help"):
            break
    return parsed


def _long(parsed: Parsed, by_name: dict[str, Flag], word: str, rest: list[str]) -> None:
    name, separator, text = word[2:].partition("=")
    if not name or name[0] == "-":
        raise UsageError(f"bad flag syntax: {word}")
    flag = by_name.get(name)
    if flag is None:
        raise UsageError(f"unknown flag: --{name}")
    if separator:
        parsed.set(flag, text)
    elif flag.is_bool:
        parsed.set(flag, "true")
    elif rest:
        parsed.set(flag, rest.pop(0))
    else:
        raise UsageError(f"flag needs an argument: --{name}")


def _shorts(parsed: Parsed, by_short: dict[str, Flag], word: str, rest: list[str]) -> None:
    letters = word[1:]
    while letters:
        flag = by_short.get(letters[0])
        if flag is None:
            raise UsageError(f"unknown shorthand flag: {letters[0]!r} in -{letters}")
        bundle, letters = letters, letters[1:]
        if letters.startswith("="):
            parsed.set(flag, letters[1:])
            return
        if flag.is_bool:
            parsed.set(flag, "true")
            continue
        if letters:
            parsed.set(flag, letters)
        elif rest:
            parsed.set(flag, rest.pop(0))
        else:
            raise UsageError(f"flag needs an argument: {flag.short!r} in -{bundle}")
        return
