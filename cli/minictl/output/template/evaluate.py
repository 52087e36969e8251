"""A parsed template applied to data: mappings (Go's structs and maps), lists, text, numbers, booleans and None."""

from __future__ import annotations

from minictl.output.template.functions import FUNCTIONS, HEADING_FUNCTIONS, is_true, show
from minictl.output.template.parse import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minictl.output.template.parse import Node


class Template:
    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    def execute(self, data: Any, *, strict: bool = False, heading: bool = False) -> str:
        """The text for `data`.

        `strict` makes a field that does not exist an error, as it is for Go's structs; else it is `<no value>`.
        `heading` shows column headings: functions that change a value leave them alone. Raises TemplateError.
        """
        run = _Run(strict=strict, heading=heading)
        run.nodes(self._nodes, data, {"$": data})
        return "".join(run.out)


class _Run:
    def __init__(self, *, strict: bool, heading: bool) -> None:
        self.out: list[str] = []
        self._strict = strict
        self._heading = heading

    def nodes(self, nodes: Iterable[Node], dot: Any, variables: dict[str, Any]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                self.out.append(node[1])
            elif kind == "action":
                variable, _ = node[1]
                value = self._pipeline(node[1], dot, variables)
                if not variable:
                    self.out.append(show(value))
            elif kind == "range":
                self._range(node, dot, variables)
            else:
                self._branch(node, dot, variables)

    def _branch(self, node: Node, dot: Any, variables: dict[str, Any]) -> None:
        kind, pipeline, body, alternative = node
        inner = dict(variables)
        value = self._pipeline(pipeline, dot, inner)
        if is_true(value):
            self.nodes(body, value if kind == "with" else dot, inner)
        else:
            self.nodes(alternative, dot, inner)

    def _range(self, node: Node, dot: Any, variables: dict[str, Any]) -> None:
        _, names, pipeline, body, alternative = node
        value = self._pipeline(pipeline, dot, dict(variables))
        pairs: list[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = sorted(value.items())
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {show(value)}")
        for key, item in pairs:
            inner = dict(variables)
            inner.update(zip(names, (item,) if len(names) == 1 else (key, item), strict=False))
            self.nodes(body, item, inner)
        if not pairs:
            self.nodes(alternative, dot, dict(variables))

    def _pipeline(self, pipeline: tuple[str, list[list[Node]]], dot: Any, variables: dict[str, Any]) -> Any:
        variable, commands = pipeline
        value = self._command(commands[0], dot, variables, ())
        for command in commands[1:]:
            value = self._command(command, dot, variables, (value,))
        if variable:
            variables[variable] = value
        return value

    def _command(
        self, operands: list[Node], dot: Any, variables: dict[str, Any], piped: tuple[Any, ...]
    ) -> Any:
        first = operands[0]
        if first[0] != "name":
            if len(operands) > 1 or piped:
                raise TemplateError(f"can't give argument to non-function {_source(first)}")
            return self._operand(first, dot, variables)
        name = first[1]
        functions = HEADING_FUNCTIONS if self._heading else FUNCTIONS
        function = functions.get(name)
        if function is None:
            raise TemplateError(f'function "{name}" not defined')
        arguments = [self._operand(operand, dot, variables) for operand in operands[1:]]
        try:
            return function(*arguments, *piped)
        except TemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise TemplateError(f"error calling {name}: {error}") from error

    def _operand(self, operand: Node, dot: Any, variables: dict[str, Any]) -> Any:
        kind = operand[0]
        if kind == "literal":
            return operand[1]
        if kind == "field":
            return self._fields(dot, operand[1])
        if kind == "variable":
            name = operand[1]
            if name not in variables:
                raise TemplateError(f'undefined variable "{name}"')
            return self._fields(variables[name], operand[2])
        if kind == "pipeline":
            return self._fields(self._pipeline(operand[1], dot, variables), operand[2])
        return self._command([operand], dot, variables, ())

    def _fields(self, value: Any, path: list[str]) -> Any:
        for name in path:
            if isinstance(value, dict):
                if name not in value and self._strict:
                    raise TemplateError(f'map has no entry for key "{name}"')
                value = value.get(name)
            elif value is None:
                if self._strict:
                    raise TemplateError(f'nil data; no entry for key "{name}"')
            else:
                raise TemplateError(f"can't evaluate field {name} in {show(value)!r}")
        return value


def _source(operand: Node) -> str:
    if operand[0] == "field":
        return "." + ".".join(operand[1])
    return str(operand[1])
