"""`inspect`: a list of JSON objects, or a template applied to each."""

from __future__ import annotations

from minicommon.errors import NotFoundError

from minictl.errors import CliError, FailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from minictl.context import Context

EXIT_TEMPLATE = 64
"""Docker's code for an `inspect` template that cannot be parsed."""


class TemplateFailedError(CliError):
    exit_code = EXIT_TEMPLATE


def inspect(
    context: Context, refs: Sequence[str], kind: str, load: Callable[[str], dict[str, Any]], *, format: str
) -> int:
    """Print what `load` returns for each reference; the ones that do not exist are reported at the end.

    Raises TemplateFailedError, or FailedError when an object is missing.
    """
    show = _shower(format)
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    for ref in refs:
        try:
            found.append(load(ref))
        except NotFoundError:
            missing.append(f"no such {kind}: {ref}")
    context.print(show(found))
    if missing:
        raise FailedError("\n".join(missing))
    return 0


def show_one(value: dict[str, Any], format: str) -> str:
    """A single object in the format: a template, or "json". Raises TemplateFailedError or CliError."""
    from minictl.output.jsontext import compact

    return compact(value) if format == "json" else _shower(format)([value])


def _shower(format: str) -> Callable[[list[dict[str, Any]]], str]:
    from minictl.output.jsontext import compact, indented

    if not format:
        return indented
    if format == "json":
        return compact
    from minictl.output import template

    try:
        compiled = template.parse(format)
    except template.TemplateError as error:
        raise TemplateFailedError(f"template parsing error: {error}") from error

    def show(values: list[dict[str, Any]]) -> str:
        try:
            return "\n".join(compiled.execute(value, strict=True) for value in values)
        except template.TemplateError as error:
            raise CliError(f"template parsing error: {error}") from error

    return show
