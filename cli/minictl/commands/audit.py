"""`minictl audit`."""

from __future__ import annotations

from minicommon.errors import MiniError

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minictl.context import Context
    from minictl.flags import Parsed


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import access

    request = messages.ListAuditRequest(
        since_ns=moment(parsed["since"], "since", context.now_ns()),
        until_ns=moment(parsed["until"], "until", context.now_ns()),
        name=parsed["user"],
        method=parsed["method"],
        limit=parsed["tail"] or 0,
    )
    answer = context.call("Audit/List", request)
    rows = access.audit_rows(answer.records, truncate=not parsed["no-trunc"])
    context.out.write(listing.render(access.RECORDS, rows, format=parsed["format"]))
    for warning in answer.warnings:
        context.warn(f"WARNING: {warning}")
    return 0


def moment(text: str, flag: str, now_ns: int) -> int:
    """A moment as Docker's --since takes it: RFC 3339, seconds since the epoch, or how long ago. Raises CliError."""
    if not text:
        return 0
    try:
        return max(1, now_ns - int(values.DURATION.parse(text)))
    except (ValueError, MiniError):
        pass
    try:
        return int(float(text) * 1_000_000_000)
    except (ValueError, OverflowError):  # "inf" is a number, but no moment
        pass
    from datetime import datetime

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"--{flag}: must be a time (2026-01-02T15:04:05, or seconds since the epoch) or a duration (10m), "
            f"got {values.quote(text)}"
        ) from None
    return int(at.timestamp() * 1_000_000) * 1000


COMMANDS = (
    Command(
        "ls",
        "List calls that changed something, or were refused when they tried",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl audit ls", "minictl audit list"),
        flags=(
            common.LIST_FORMAT,
            Flag(
                "method",
                'Only calls of methods like this (e.g. "Services/Remove", "remove")',
                kind=values.STRING,
            ),
            common.NO_TRUNC,
            Flag(
                "since",
                'Only calls since a timestamp (e.g. "2026-01-02T13:23:37Z") or relative (e.g. "42m")',
                kind=values.STRING,
            ),
            Flag(
                "tail",
                "Number of calls to show, the newest",
                short="n",
                kind=values.UINT32,
                default=1000,
                shown="1000",
            ),
            Flag("until", "Only calls before a timestamp or relative", kind=values.STRING),
            Flag(
                "user",
                'Only calls of this name, node id or kind of caller (e.g. "alice", "local", "admin")',
                kind=values.STRING,
            ),
        ),
    ),
)
