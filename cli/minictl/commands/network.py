"""`minictl network`."""

from __future__ import annotations

from minictl.command import Command
from minictl.commands import common
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import network

    request = messages.ListRequest(filters=common.filters(parsed["filter"]))
    response = context.call("Networks/List", request)
    truncate = not parsed["no-trunc"]
    rows = network.rows(response.networks, truncate=truncate)
    context.out.write(listing.render(network.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import network

    def load(ref: str) -> dict[str, Any]:
        shown = network.to_json(context.call("Networks/Get", messages.GetRequest(ref=ref)))
        if parsed["format"] not in ("", "json"):
            shown["ID"] = shown["Id"]  # Docker's templates know the field by both names
        return shown

    return inspect(context, parsed.arguments, "network", load, format=parsed["format"])


COMMANDS = (
    Command(
        "inspect",
        "Display detailed information on one or more networks",
        _inspect,
        arguments="NETWORK [NETWORK...]",
        least=1,
        most=None,
        flags=(
            common.INSPECT_FORMAT,
            Flag("verbose", "Verbose output for diagnostics", short="v", later=True),
        ),
    ),
    Command(
        "ls",
        "List networks",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl network ls", "minictl network list"),
        flags=(
            Flag(
                "filter", 'Provide filter values (e.g. "driver=overlay")', short="f", kind=common.FILTER.kind
            ),
            common.LIST_FORMAT,
            Flag("no-trunc", "Do not truncate the output"),
            common.quiet_flag("network IDs"),
        ),
    ),
)
