"""The part of Go's text/template that `--format` is used with.

Actions: `{{.Field.Sub}}`, `{{$x := ...}}`, pipelines, parentheses, `if`/`else if`/`else`, `range` (with variables and
`else`), `with`, comments, and `{{-` `-}}`. Functions: Docker's (`json`, `split`, `join`, `title`, `lower`, `upper`,
`pad`, `truncate`, `println`) and Go's (`and`, `or`, `not`, `len`, `index`, `print`, `printf`, comparisons).
"""

from __future__ import annotations

from minictl.output.template.evaluate import Template
from minictl.output.template.parse import TemplateError, parse_nodes

__all__ = ["Template", "TemplateError", "parse"]


def parse(text: str) -> Template:
    """A template that can be executed many times. Raises TemplateError."""
    return Template(parse_nodes(text))
