"""`minictl volume`: the named volumes of this node."""

from __future__ import annotations

from minicommon.errors import MiniError

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError, FailedError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.node_pb2 import Volume

    from minictl.context import Context
    from minictl.flags import Parsed

LS_FILTERS = ("dangling", "driver", "label", "name")
PRUNE_FILTERS = ("all", "label", "label!")

ANONYMOUS = "com.docker.volume.anonymous"
"""Docker's label for a volume that nobody gave a name."""


def _create(context: Context, parsed: Parsed) -> int:
    from minictl import keyvalues
    from minictl.client import messages

    given = parsed.arguments[0] if parsed.arguments else ""
    if given and parsed["name"]:
        raise CliError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    if parsed["driver"] != "local":
        raise CliError(f"volume driver {values.quote(parsed['driver'])} is not supported: only local is")
    if parsed["opt"]:
        raise CliError(f"--opt {parsed['opt'][0]}: the local driver of this version has no options")
    request = messages.CreateVolumeRequest(
        name=given or parsed["name"], labels=keyvalues.labels(parsed["label"])
    )
    context.print(context.call("Volumes/Create", request).name)
    return 0


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import volume

    _check(parsed["filter"], LS_FILTERS)
    found = context.call("Volumes/List", messages.ListVolumesRequest()).volumes
    rows = volume.rows(item for item in found if _matches_all(item, parsed["filter"]))
    context.out.write(listing.render(volume.LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _inspect(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output.inspect import inspect
    from minictl.views import volume

    def load(name: str) -> dict[str, Any]:
        return volume.to_json(context.call("Volumes/Get", messages.GetVolumeRequest(name=name)))

    return inspect(context, parsed.arguments, "volume", load, format=parsed["format"])


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    def remove(name: str) -> None:
        context.call("Volumes/Remove", messages.RemoveVolumeRequest(name=name, force=parsed["force"]))
        context.print(name)

    return common.for_each(parsed.arguments, remove)


def _prune(context: Context, parsed: Parsed) -> int:
    """Those that no container has; without --all only those that nobody gave a name."""
    from minicommon.units import human_size

    from minictl.client import messages
    from minictl.main import describe

    _check(parsed["filter"], PRUNE_FILTERS)
    every = parsed["all"] or any(key == "all" and values.parse_bool(value) for key, value in parsed["filter"])
    if not parsed["force"] and not common.confirmed(context, _warning(every=every)):
        raise CliError("volume prune has been cancelled")
    wanted = [(key, value) for key, value in parsed["filter"] if key != "all"]
    found = context.call("Volumes/List", messages.ListVolumesRequest()).volumes
    removed: list[str] = []
    failures: list[str] = []
    freed = 0
    for item in found:
        if item.used_by or not (every or ANONYMOUS in item.labels) or not _matches_all(item, wanted):
            continue
        try:
            freed += context.call("Volumes/Remove", messages.RemoveVolumeRequest(name=item.name)).freed_bytes
            removed.append(item.name)
        except MiniError as error:  # a container has got it meanwhile
            failures.append(describe(error))
    if removed:
        context.print("Deleted Volumes:\n" + "".join(f"{name}\n" for name in removed))
    context.print(f"Total reclaimed space: {human_size(freed)}")
    if failures:
        raise FailedError("\n".join(failures))
    return 0


def _warning(*, every: bool) -> str:
    which = "all" if every else "anonymous"
    return f"WARNING! This will remove {which} local volumes not used by at least one container.\n"


def _check(pairs: Iterable[tuple[str, str]], supported: tuple[str, ...]) -> None:
    for key, value in pairs:
        if key not in supported:
            raise CliError(f"invalid filter '{key}': only {', '.join(supported)} are supported")
        if key in ("dangling", "all"):
            try:
                values.parse_bool(value)
            except ValueError:
                raise CliError(f"invalid filter '{key}={value}'") from None


def _matches_all(item: Volume, pairs: Iterable[tuple[str, str]]) -> bool:
    """Values of the same key are alternatives, except that all labels must be there."""
    grouped: dict[str, list[str]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return all(_matches(item, key, found) for key, found in grouped.items())


def _matches(item: Volume, key: str, wanted: list[str]) -> bool:
    match key:
        case "name":
            return any(text in item.name for text in wanted)
        case "driver":
            return "local" in wanted
        case "dangling":
            return any(values.parse_bool(text) != bool(item.used_by) for text in wanted)
        case "label!":
            return not any(_has_label(item, text) for text in wanted)
        case _:
            return all(_has_label(item, text) for text in wanted)


def _has_label(item: Volume, text: str) -> bool:
    name, equals, value = text.partition("=")
    return name in item.labels and (not equals or item.labels[name] == value)


_CLUSTER_FLAGS = """
availability group limit-bytes required-bytes scope secret sharing topology-preferred topology-required type
"""

COMMANDS = (
    Command(
        "create",
        "Create a volume",
        _create,
        arguments="[VOLUME]",
        most=1,
        flags=(
            Flag(
                "driver",
                "Specify volume driver name",
                short="d",
                kind=values.STRING,
                default="local",
                shown='"local"',
            ),
            Flag("label", "Set metadata for a volume", kind=values.LABEL),
            Flag("name", "Specify volume name", kind=values.STRING),
            Flag("opt", "Set driver specific options", short="o", kind=values.LIST),
            *(Flag(name, "", kind=values.STRING, later=True) for name in _CLUSTER_FLAGS.split()),
        ),
    ),
    Command(
        "inspect",
        "Display detailed information on one or more volumes",
        _inspect,
        arguments="VOLUME [VOLUME...]",
        least=1,
        most=None,
        flags=(common.INSPECT_FORMAT,),
    ),
    Command(
        "ls",
        "List volumes",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl volume ls", "minictl volume list"),
        flags=(
            Flag("cluster", "", later=True),
            Flag(
                "filter", 'Provide filter values (e.g. "dangling=true")', short="f", kind=common.FILTER.kind
            ),
            common.LIST_FORMAT,
            common.quiet_flag("volume names"),
        ),
    ),
    Command(
        "prune",
        "Remove unused local volumes",
        _prune,
        flags=(
            Flag("all", "Remove all unused volumes, not just anonymous ones", short="a"),
            Flag("filter", 'Provide filter values (e.g. "label=<label>")', kind=common.FILTER.kind),
            Flag("force", "Do not prompt for confirmation", short="f"),
        ),
    ),
    Command(
        "rm",
        "Remove one or more volumes",
        _rm,
        arguments="VOLUME [VOLUME...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl volume rm", "minictl volume remove"),
        flags=(Flag("force", "Force the removal of one or more volumes", short="f"),),
    ),
)
