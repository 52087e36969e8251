"""Lists: `ls` and `ps` commands. A row is a mapping of field names to what a template may show of them.

`--format` takes `table` (the default), `json`, `table TEMPLATE` and `TEMPLATE`; `-q` shows one field.
"""

from __future__ import annotations

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Row = Mapping[str, Any]
    """Field names, as a template spells them, to values."""


class Layout:
    """What a kind of object looks like in a list.

    `headings` names every field; `columns` are the fields of the default table. `cells` says what a column shows where
    that is not the field itself.
    """

    __slots__ = ("cells", "columns", "headings", "quiet")

    def __init__(
        self,
        headings: Mapping[str, str],
        columns: Sequence[str],
        *,
        quiet: str = "ID",
        cells: Mapping[str, Callable[[Row], str]] | None = None,
    ) -> None:
        self.headings = headings
        self.columns = columns
        self.quiet = quiet
        self.cells = cells or {}

    def cell(self, row: Row, field: str) -> str:
        special = self.cells.get(field)
        return special(row) if special else str(row[field])


def is_table(format: str) -> bool:
    """Whether rows are shown under headings, so that they may be indented."""
    return not format or format.startswith("table")


def render(layout: Layout, rows: Sequence[Row], *, format: str = "", quiet: bool = False) -> str:
    """The text of a list. Raises CliError for a template that cannot be read or applied."""
    from minictl.output.table import align

    if not format or format == "table":
        if quiet:
            return "".join(f"{row[layout.quiet]}\n" for row in rows)
        table = [[layout.headings[field] for field in layout.columns]]
        table += [[layout.cell(row, field) for field in layout.columns] for row in rows]
        return align(table)
    if format == "json":
        from minictl.output.jsontext import compact

        return "".join(f"{compact(dict(row))}\n" for row in rows)
    return _templated(layout, rows, format)


def _templated(layout: Layout, rows: Sequence[Row], format: str) -> str:
    from minictl.output import template
    from minictl.output.table import align_text

    text = format
    table = text.startswith("table")
    if table:
        text = text.removeprefix("table").strip()
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    try:
        compiled = template.parse(text)
        body = "".join(compiled.execute(dict(row), strict=True) + "\n" for row in rows)
        if not table:
            return body
        return align_text(compiled.execute(dict(layout.headings), heading=True) + "\n" + body)
    except template.TemplateError as error:
        raise CliError(f"template parsing error: {error}") from error
