"""The flags of commands that show logs, as Docker has them."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag

_COMMON = (
    Flag("details", "Show extra details provided to logs"),
    Flag("follow", "Follow log output", short="f"),
    Flag(
        "since",
        'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
        kind=values.STRING,
    ),
    Flag(
        "tail",
        "Number of lines to show from the end of the logs",
        short="n",
        kind=values.STRING,
        default="all",
        shown='"all"',
    ),
    Flag("timestamps", "Show timestamps", short="t"),
)

_UNTIL = Flag(
    "until",
    'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
    kind=values.STRING,
)

SERVICE_FLAGS = (
    *_COMMON,
    Flag("no-resolve", "Do not map IDs to Names in output"),
    Flag("no-task-ids", "Do not include task IDs in output"),
    Flag("no-trunc", "Do not truncate output"),
    Flag("raw", "Do not neatly format logs"),
    _UNTIL,
)

CONTAINER_FLAGS = (*_COMMON, _UNTIL)
