"""Regular expressions whose cost is known beforehand.

Users give them, the control loop matches them: an engine that backtracks could be kept busy for years by one of them.
So a pattern becomes an automaton here, and a match follows all of its states at once: it takes at most as many steps
as there are states, for each character. Understood are characters, `.`, classes, `\\d`, `\\w`, `\\s`,
`* + ?`, `{m}`, `{m,}`, `{m,n}`, `|`, groups, `^` and `$`. Letters match in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from minicommon.errors import InvalidArgumentError

MAX_TEXT = 1024
"""A longer text matches nothing: it is no label that anybody would choose nodes by."""

MAX_STATES = 1000
"""Of an automaton; with MAX_TEXT it bounds what one match costs."""

MAX_REPEAT = 100
MAX_DEPTH = 20
"""Groups in groups."""

_Test = Callable[[str], bool]

_START, _END = "^", "$"


@dataclass(slots=True)
class _State:
    """Goes on to `to` with a character that passes `test`, or where `anchor` holds, or (neither) always."""

    test: _Test | None = None
    anchor: str = ""
    to: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the automaton: where it begins, and the states whose `to` leads out of it."""

    begin: int
    ends: tuple[int, ...]


class Pattern:
    """A compiled pattern; use `pattern`."""

    def __init__(self, text: str) -> None:
        parser = _Parser(text.lower())
        whole = parser.parse()
        self._states = parser.states
        self._begin = whole.begin
        self._final = parser.state()
        parser.connect(whole.ends, self._final)

    def found_in(self, text: str) -> bool:
        """Whether some part of `text` matches."""
        text = text.lower()
        if len(text) > MAX_TEXT:
            return False
        present: set[int] = set()
        for position in range(len(text) + 1):
            present = self._reached({*present, self._begin}, position, len(text))
            if self._final in present:
                return True
            if position < len(text):
                present = self._after(present, text[position])
        return False

    def _after(self, present: set[int], char: str) -> set[int]:
        following: set[int] = set()
        for number in present:
            state = self._states[number]
            if state.test is not None and state.test(char):
                following.update(state.to)
        return following

    def _reached(self, begin: Iterable[int], position: int, length: int) -> set[int]:
        """All states that can be reached from `begin` without another character."""
        seen: set[int] = set()
        waiting = list(begin)
        while waiting:
            number = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            state = self._states[number]
            closed = state.anchor and position != (0 if state.anchor == _START else length)
            if state.test is None and not closed:
                waiting.extend(state.to)
        return seen


@lru_cache(1024)
def pattern(text: str) -> Pattern:
    """Raises InvalidArgumentError for what is no pattern, or one too big."""
    return Pattern(text)


class _Parser:
    """Recursive descent: alternatives of sequences of repeated atoms, made into states on the way."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.states: list[_State] = []

    def parse(self) -> _Part:
        part = self._alternatives()
        if self._at < len(self._text):
            raise self._wrong("unmatched )")
        return part

    def state(self, *, test: _Test | None = None, anchor: str = "", to: Iterable[int] = ()) -> int:
        if len(self.states) >= MAX_STATES:
            raise self._wrong("it is too big")
        self.states.append(_State(test, anchor, list(to)))
        return len(self.states) - 1

    def connect(self, ends: Iterable[int], to: int) -> None:
        for number in ends:
            self.states[number].to.append(to)

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._taken("|"):
            parts.append(self._sequence())
        if len(parts) == 1:
            return parts[0]
        fork = self.state(to=[part.begin for part in parts])
        return _Part(fork, tuple(end for part in parts for end in part.ends))

    def _sequence(self) -> _Part:
        begin = self.state()
        ends: tuple[int, ...] = (begin,)
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            part = self._repeated()
            self.connect(ends, part.begin)
            ends = part.ends
        return _Part(begin, ends)

    def _repeated(self) -> _Part:
        begin = self._at
        part = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return part
        after = self._at
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            raise self._wrong("a repetition of a repetition")
        part = self._times(part, begin, *bounds)
        self._at = after
        return part

    def _times(self, first: _Part, begin: int, least: int, most: int | None) -> _Part:
        """`first` and as many more of the same as are needed, parsed anew from `begin`."""
        entry = self.state()
        ends: list[int] = [entry] if least == 0 else []
        last: tuple[int, ...] = (entry,)
        count = max(least, 1) if most is None else most
        part = first
        for number in range(1, count + 1):
            if number > 1:
                self._at = begin
                part = self._atom()
            self.connect(last, part.begin)
            last = part.ends
            if number >= least:
                ends.extend(last)
        if most is None:
            self.connect(last, part.begin)
        return _Part(entry, tuple(ends))

    def _bounds(self) -> tuple[int, int | None] | None:
        """The repetition that follows: least, and most or None for any number."""
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._taken(sign):
                return least, most
        if not self._taken("{"):
            return None
        close = self._text.find("}", self._at)
        inside = self._text[self._at : close] if close >= 0 else ""
        first, comma, second = inside.partition(",")
        if not _number(first) or not (second == "" or _number(second)):
            raise self._wrong("a repetition must be {m}, {m,} or {m,n}")
        self._at = close + 1
        bounds = int(first), (int(first) if not comma else int(second) if second else None)
        least, most = bounds
        if max(least, most or 0) > MAX_REPEAT or (most is not None and not max(least, 1) <= most):
            raise self._wrong(f"a repetition must be from 1 to {MAX_REPEAT} and not end before it begins")
        return bounds

    def _atom(self) -> _Part:
        char = self._next()
        if char in "*+?{":
            raise self._wrong(f"nothing to repeat before {char}")
        if char == "(":
            return self._group()
        number = self.state(anchor=char) if char in "^$" else self.state(test=self._test(char))
        return _Part(number, (number,))

    def _group(self) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong("too many groups in groups")
        if self._taken("?") and not self._taken(":"):
            raise self._wrong("of the (?...) there is only (?:")
        part = self._alternatives()
        if not self._taken(")"):
            raise self._wrong("missing )")
        self._depth -= 1
        return part

    def _test(self, char: str) -> _Test:
        match char:
            case ".":
                return lambda other: True
            case "\\":
                return self._escaped()
            case "[":
                return self._class()
            case _:
                return char.__eq__

    def _escaped(self) -> _Test:
        char = self._next()
        if char in "dws":
            return _CLASSES[char]
        if char.isalnum():
            raise self._wrong(f"\\{char} has no meaning")
        return char.__eq__

    def _class(self) -> _Test:
        negated = self._taken("^")
        tests: list[_Test] = []
        while not tests or not self._taken("]"):
            char = self._next()
            if char == "\\":
                tests.append(self._escaped())
            elif self._text.startswith("-", self._at) and self._text[self._at + 1 : self._at + 2] not in (
                "",
                "]",
            ):
                self._at += 1
                last = self._next()
                if last < char:
                    raise self._wrong(f"the range {char}-{last} is empty")
                tests.append(_range(char, last))
            else:
                tests.append(char.__eq__)
        return lambda other: any(test(other) for test in tests) is not negated

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._wrong("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _taken(self, char: str) -> bool:
        if not self._text.startswith(char, self._at):
            return False
        self._at += 1
        return True

    def _wrong(self, reason: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"{self._text!r} is no regular expression that can be used here: {reason}"
        )


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def _range(first: str, last: str) -> _Test:
    return lambda other: first <= other <= last


_CLASSES: dict[str, _Test] = {
    "d": lambda char: char.isascii() and char.isdigit(),
    "w": lambda char: char == "_" or (char.isascii() and char.isalnum()),
    "s": str.isspace,
}
