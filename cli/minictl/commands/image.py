"""`minictl image`: the images of this node."""

from __future__ import annotations

import sys

from minicommon.errors import MiniError, NotFoundError

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError, FailedError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from miniproto.v1.node_pb2 import LoadImageChunk

    from minictl.context import Context
    from minictl.flags import Parsed

CHUNK_BYTES = 256 << 10
"""Bytes per message of an upload; well below gRPC's default limit of 4 MiB."""

_SUPPORTED_FILTERS = ("reference", "dangling")


def _load(context: Context, parsed: Parsed) -> int:
    path = parsed["input"]
    if not path:
        if sys.stdin.isatty():
            raise CliError("requested load from stdin, but stdin is empty")
        return _send(context, sys.stdin.buffer)
    try:
        with open(path, "rb") as file:
            return _send(context, file)
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error


def _send(context: Context, file: BinaryIO) -> int:
    response = context.channel.upload("Images/Load", chunks(file))
    for name in response.loaded:
        context.print(f"Loaded image ID: {name}" if name.startswith("sha256:") else f"Loaded image: {name}")
    return 0


def chunks(file: BinaryIO) -> Iterator[LoadImageChunk]:
    """The file in messages."""
    from minictl.client import messages

    while data := file.read(CHUNK_BYTES):
        yield messages.LoadImageChunk(data=data)


def _ls(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.output import listing
    from minictl.views import image

    _check_filters(parsed["filter"])
    response = context.call("Images/List", messages.ListImagesRequest())
    rows = image.rows(response.images, now_ns=context.now_ns(), truncate=not parsed["no-trunc"])
    if parsed.arguments:
        repository, tag = image.split_reference(parsed.arguments[0])
        rows = [row for row in rows if row["Repository"] == repository and tag in ("<none>", row["Tag"])]
    for key, value in parsed["filter"]:
        rows = [row for row in rows if _matches(row, key, value)]
    if parsed["quiet"]:
        rows = list({row["ID"]: row for row in rows}.values())
    layout = image.DIGESTS_LAYOUT if parsed["digests"] else image.LAYOUT
    context.out.write(listing.render(layout, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _check_filters(pairs: list[tuple[str, str]]) -> None:
    for key, value in pairs:
        if key not in _SUPPORTED_FILTERS:
            raise CliError(f"invalid filter '{key}': only reference and dangling are supported")
        if key == "dangling":
            try:
                values.parse_bool(value)
            except ValueError:
                raise CliError(f"invalid filter 'dangling={value}'") from None


def _matches(row: dict[str, str], key: str, value: str) -> bool:
    from fnmatch import fnmatchcase

    if key == "dangling":
        return (row["Tag"] == "<none>") == values.parse_bool(value)
    return any(fnmatchcase(name, value) for name in (row["Repository"], f"{row['Repository']}:{row['Tag']}"))


def _rm(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.main import describe

    failures: list[str] = []
    fatal = False
    for ref in parsed.arguments:
        try:
            removed = context.call(
                "Images/Remove", messages.RemoveImageRequest(ref=ref, force=parsed["force"])
            )
        except MiniError as error:
            fatal = fatal or not isinstance(error, NotFoundError)
            failures.append(describe(error))
            continue
        for name in removed.untagged:
            context.print(f"Untagged: {name}")
        for name in removed.deleted:
            context.print(f"Deleted: {name}")
    if failures and (fatal or not parsed["force"]):
        raise FailedError("\n".join(failures))
    for failure in failures:
        context.warn(failure)
    return 0


_PLATFORM = Flag(
    "platform",
    'Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
    kind=values.STRING,
    later=True,
)

COMMANDS = (
    Command(
        "load",
        "Load an image from a tar archive or STDIN",
        _load,
        shown_aliases=("minictl image load", "minictl load"),
        flags=(
            Flag("input", "Read from tar archive file, instead of STDIN", short="i", kind=values.STRING),
            _PLATFORM,
            Flag("quiet", "Suppress the load output", short="q"),
        ),
    ),
    Command(
        "ls",
        "List images",
        _ls,
        arguments="[REPOSITORY[:TAG]]",
        most=1,
        aliases=("list",),
        shown_aliases=("minictl image ls", "minictl image list", "minictl images"),
        flags=(
            Flag("all", "Show all images (default hides intermediate images)", short="a"),
            Flag("digests", "Show digests"),
            common.FILTER,
            common.LIST_FORMAT,
            Flag("no-trunc", "Don't truncate output"),
            Flag("quiet", "Only show image IDs", short="q"),
            Flag("tree", "List multi-platform images as a tree (EXPERIMENTAL)", later=True),
        ),
    ),
    Command(
        "rm",
        "Remove one or more images",
        _rm,
        arguments="IMAGE [IMAGE...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl image rm", "minictl image remove", "minictl rmi"),
        flags=(
            Flag("force", "Force removal of the image", short="f"),
            Flag("no-prune", "Do not delete untagged parents", later=True),
            _PLATFORM,
        ),
    ),
)
