"""Text to a tree of nodes.

Nodes are tuples, their kind first:

- ("text", string), ("action", pipeline), ("if" | "with", pipeline, body, alternative),
  ("range", variables, pipeline, body, alternative)
- a pipeline is (variable or "", [command, ...]), a command a list of operands
- operands: ("field", path), ("variable", name, path), ("literal", value), ("name", function),
  ("pipeline", pipeline, path)
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]

_ACTION = re.compile(
    r"\{\{(- )?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|'(?:\\.|[^'\\])*'|[^`\"'])*?)\s*( -)?\}\}", re.S
)

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:\\.|[^"\\])*") |
      (?P<raw>`[^`]*`) |
      (?P<number>-?\d+(?:\.\d+)?) |
      (?P<path>(?:\.[^\W\d]\w*)+) |
      (?P<variable>\$\w*) |
      (?P<name>[^\W\d]\w*) |
      (?P<define>:=) |
      (?P<mark>[().,|]) |
      (?P<bad>\S)
    )""",
    re.X,
)

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.S)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}


class TemplateError(ValueError):
    """The template cannot be read, or cannot be applied to the data."""


def parse_nodes(text: str) -> list[Node]:
    """The nodes of a template. Raises TemplateError."""
    parser = _Blocks(_pieces(text))
    nodes, end = parser.block(top=True)
    if end:
        raise TemplateError(f"unexpected {{{{{end}}}}}")
    return nodes


def _pieces(text: str) -> list[tuple[bool, str]]:
    """Texts and actions, in turn; `{{-` and `-}}` have eaten the space beside them."""
    pieces: list[tuple[bool, str]] = []
    at = 0
    trim = False
    while (start := text.find("{{", at)) >= 0:
        action = _ACTION.match(text, start)
        if action is None:
            raise TemplateError("unclosed action")
        before = text[at:start]
        before = before.lstrip() if trim else before
        before = before.rstrip() if action[1] else before
        pieces.append((False, before))
        if not action[2].startswith("/*"):
            pieces.append((True, action[2]))
        trim = bool(action[3])
        at = action.end()
    rest = text[at:]
    pieces.append((False, rest.lstrip() if trim else rest))
    return pieces


class _Blocks:
    """Nests the actions that have an end."""

    def __init__(self, pieces: list[tuple[bool, str]]) -> None:
        self._pieces = pieces
        self._at = 0

    def block(self, *, top: bool = False) -> tuple[list[Node], str]:
        """Nodes up to `end` or `else`, and the words of the action that ended them ("" at the end of the text)."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            if not is_action:
                if text:
                    nodes.append(("text", text))
                continue
            word, _, rest = text.partition(" ")
            if word in ("end", "else"):
                return nodes, text
            if word in ("if", "with", "range"):
                nodes.append(self._control(word, rest))
            elif not text:
                raise TemplateError("missing value for command")
            else:
                nodes.append(("action", _Expression(text).pipeline()))
        if not top:
            raise TemplateError("unexpected EOF")
        return nodes, ""

    def _control(self, word: str, rest: str) -> Node:
        expression = _Expression(rest)
        variables = expression.range_variables() if word == "range" else ()
        pipeline = expression.pipeline()
        body, end = self.block()
        alternative: list[Node] = []
        if end.startswith("else"):
            more = end.removeprefix("else").strip()
            if more:
                inner, _, condition = more.partition(" ")
                if inner != word or word == "range":
                    raise TemplateError(f"unexpected {{{{else {more}}}}}")
                alternative = [self._control(inner, condition)]
            else:
                alternative, end = self.block()
                if end != "end":
                    raise TemplateError(f"unexpected {{{{{end}}}}}")
        elif end != "end":
            raise TemplateError(f"unexpected {{{{{end}}}}}")
        if word == "range":
            return (word, variables, pipeline, body, alternative)
        return (word, pipeline, body, alternative)


class _Expression:
    """The inside of one action."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def _peek(self, ahead: int = 0) -> tuple[str, str, bool]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "", True)

    def _next(self) -> tuple[str, str, bool]:
        token = self._peek()
        self._at += 1
        return token

    def range_variables(self) -> tuple[str, ...]:
        """`$k, $v :=` or `$v :=` before a range's pipeline."""
        if self._peek()[0] != "variable":
            return ()
        if self._peek(1)[0] == "define":
            name = self._next()[1]
            self._next()
            return (name,)
        if self._peek(1)[1] == "," and self._peek(2)[0] == "variable" and self._peek(3)[0] == "define":
            first, second = self._peek()[1], self._peek(2)[1]
            self._at += 4
            return (first, second)
        return ()

    def pipeline(self, *, inner: bool = False) -> tuple[str, list[list[Node]]]:
        variable = ""
        if self._peek()[0] == "variable" and self._peek(1)[0] == "define":
            variable = self._next()[1]
            self._next()
        commands = [self._command()]
        while self._peek()[1] == "|":
            self._next()
            commands.append(self._command())
        kind, text, _ = self._next()
        if inner and text != ")":
            raise TemplateError("unclosed left paren")
        if not inner and kind != "end":
            raise TemplateError(f'unexpected "{text}" in operand')
        return variable, commands

    def _command(self) -> list[Node]:
        operands: list[Node] = []
        while True:
            kind, text, _ = self._peek()
            if kind == "end" or text in ("|", ")"):
                break
            operands.append(self._operand())
        if not operands:
            raise TemplateError("missing value for command")
        return operands

    def _operand(self) -> Node:
        kind, text, _ = self._next()
        if kind == "path":
            return ("field", text[1:].split("."))
        if kind == "variable":
            return ("variable", text, self._path())
        if text == "(":
            return ("pipeline", self.pipeline(inner=True), self._path())
        if text == ".":
            return ("field", [])
        if kind == "string":
            return ("literal", _unescape(text[1:-1]))
        if kind == "raw":
            return ("literal", text[1:-1])
        if kind == "number":
            return ("literal", float(text) if "." in text else int(text))
        if kind == "name":
            constants = {"true": True, "false": False, "nil": None}
            return ("literal", constants[text]) if text in constants else ("name", text)
        raise TemplateError(f'unexpected "{text}" in operand')

    def _path(self) -> list[str]:
        """The fields that follow a variable or a parenthesis without a space."""
        kind, text, spaced = self._peek()
        if kind == "path" and not spaced:
            self._at += 1
            return text[1:].split(".")
        return []


def _tokens(text: str) -> list[tuple[str, str, bool]]:
    """Kind, text, and whether space was before it."""
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "bad":
            raise TemplateError(f"unexpected {match[kind]!r} in operand")
        tokens.append((kind, match[kind], match.start(kind) > match.start()))
    return tokens


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "ux" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise TemplateError(f"unknown escape \\{code} in a string")
        return _ESCAPES[code]

    return _ESCAPE.sub(one, text)
