"""`minictl image`: the images of this node."""

from __future__ import annotations

import sys

from minicommon.errors import MiniError, NotFoundError

from minictl import values
from minictl.command import Command
from minictl.commands import common
from minictl.commands.image_transfer import PLATFORM, PULL, PUSH, SAVE
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


def _prune(context: Context, parsed: Parsed) -> int:
    from minicommon.units import human_size

    from minictl.client import messages

    every = parsed["all"]
    if not parsed["force"] and not common.confirmed(context, _warning(every=every)):
        raise CliError("image prune has been cancelled")
    pruned = context.call("Images/Prune", messages.PruneImagesRequest(all=every), timeout=None)
    lines = [f"untagged: {name}" for name in pruned.untagged] + [
        f"deleted: {name}" for name in pruned.deleted
    ]
    if lines:
        context.print("Deleted Images:\n" + "".join(f"{line}\n" for line in lines))
    context.print(f"Total reclaimed space: {human_size(pruned.freed_bytes)}")
    return 0


def _warning(*, every: bool) -> str:
    which = "all images without at least one container associated to them" if every else "all dangling images"
    return f"WARNING! This will remove {which}.\n"


def _tag(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    ref, name = parsed.arguments
    context.call("Images/Tag", messages.TagImageRequest(ref=ref, name=name))
    return 0


COMMANDS = (
    Command(
        "load",
        "Load an image from a tar archive or STDIN",
        _load,
        shown_aliases=("minictl image load", "minictl load"),
        flags=(
            Flag("input", "Read from tar archive file, instead of STDIN", short="i", kind=values.STRING),
            PLATFORM,
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
        "prune",
        "Remove unused images of this node",
        _prune,
        flags=(
            Flag("all", "Remove all unused images, not just dangling ones", short="a"),
            Flag(
                "filter", 'Provide filter values (e.g. "until=<timestamp>")', kind=values.STRING, later=True
            ),
            Flag("force", "Do not prompt for confirmation", short="f"),
        ),
    ),
    PULL,
    PUSH,
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
            PLATFORM,
        ),
    ),
    SAVE,
    Command(
        "tag",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        _tag,
        arguments="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        least=2,
        most=2,
        shown_aliases=("minictl image tag", "minictl tag"),
    ),
)
