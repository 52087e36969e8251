"""Columns aligned as Docker aligns them: Go's tab writer with a least width of 10 and three spaces between columns."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_WIDTH = 10
PADDING = 3


def align(rows: Sequence[Sequence[str]]) -> str:
    """The rows as text, each ended by a newline.

    A cell is padded when another follows it in its row. A column is as wide as its widest padded cell among neighboring
    rows that have it, so that rows with fewer cells divide the table into blocks.
    """
    widths = [[0] * max(len(row) - 1, 0) for row in rows]
    columns = max(map(len, widths), default=0)
    for column in range(columns):
        start = 0
        while start < len(rows):
            if len(widths[start]) <= column:
                start += 1
                continue
            end = start
            while end < len(rows) and len(widths[end]) > column:
                end += 1
            width = max(MIN_WIDTH, *(len(row[column]) + PADDING for row in rows[start:end]))
            for index in range(start, end):
                widths[index][column] = width
            start = end
    lines = []
    for row, row_widths in zip(rows, widths, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(row, row_widths, strict=False)]
        lines.append("".join(padded) + (row[-1] if row else "") + "\n")
    return "".join(lines)


def align_text(text: str) -> str:
    """The same for text whose cells are separated by tabs."""
    if not text:
        return ""
    return align([line.split("\t") for line in text.removesuffix("\n").split("\n")])
