"""`minictl image pull`, `push` and `save`: images on their way between this node, registries and archives."""

from __future__ import annotations

import os
import sys

from minicommon.errors import InvalidArgumentError

from minictl import registry, values
from minictl.command import Command
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from minicommon.reference import Reference

    from minictl.context import Context
    from minictl.flags import Parsed

_CLEAR = "\r\x1b[K"
"""Back to the line's beginning, and nothing on it."""


def _pull(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    name = _reference(parsed.arguments[0])
    quiet = parsed["quiet"]
    if not quiet:
        if not name.tag and not name.digest:
            context.print("Using default tag: latest")
        context.print(f"{name.digest or name.tagged.tag}: Pulling from {name.path}")
    request = messages.PullImageRequest(ref=name.tagged.familiar)
    done = _follow(context, "Images/Pull", request, _OnOneLine(context, quiet=quiet))
    if not quiet:
        context.print(f"Digest: {done.digest}")
        what = "Downloaded newer image" if done.fresh else "Image is up to date"
        context.print(f"Status: {what} for {name.tagged.familiar}")
    context.print(done.reference)
    return 0


def _push(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages

    name = _reference(parsed.arguments[0])
    quiet = parsed["quiet"]
    if not quiet:
        context.print(f"The push refers to repository [{name.domain}/{name.path}]")
        if not name.tag and not name.digest:
            context.print("Using default tag: latest")
    request = messages.PushImageRequest(ref=name.tagged.familiar)
    done = _follow(context, "Images/Push", request, _Lines(context, quiet=quiet))
    if quiet:
        context.print(f"{name.domain}/{name.path}:{name.tagged.tag}")
    else:
        context.print(f"{name.tagged.tag}: digest: {done.digest} size: {done.size_bytes}")
    return 0


def _reference(text: str) -> Reference:
    from minicommon.reference import parse_reference

    try:
        return parse_reference(text)
    except InvalidArgumentError as error:
        raise CliError(str(error)) from None


class _Lines:
    """What is done, a line each."""

    def __init__(self, context: Context, *, quiet: bool) -> None:
        self._context = context
        self._quiet = quiet

    def show(self, status: str) -> None:
        if not self._quiet:
            self._context.print(status)
            self._context.out.flush()

    def end(self) -> None:
        return


class _OnOneLine(_Lines):
    """What is being done, on one line of a terminal, and nowhere else."""

    def show(self, status: str) -> None:
        if not self._quiet and self._context.out.isatty():
            self._context.out.write(f"{_CLEAR}{status}")
            self._context.out.flush()

    def end(self) -> None:
        self.show("")


def _follow(context: Context, method: str, request: Any, lines: _Lines) -> Any:
    """Make the call as who has logged in to the image's registry; what came of it."""
    registry.authorize(context, request)
    call = context.channel.stream(method, request)
    try:
        while (message := call.receive()) is not None:
            if message.HasField("done"):
                return message.done
            lines.show(message.status)
    finally:
        lines.end()
        call.cancel()
    raise CliError("the daemon ended the call before it was done")


def _save(context: Context, parsed: Parsed) -> int:
    path = parsed["output"]
    if not path:
        if sys.stdout.isatty():
            raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        context.out.flush()
        _write(context, parsed.arguments, sys.stdout.buffer)
        return 0
    partial = f"{path}.partial.{os.getpid()}"
    try:
        with open(partial, "xb") as file:
            _write(context, parsed.arguments, file)
        os.replace(partial, path)
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return 0


def _write(context: Context, refs: list[str], file: BinaryIO) -> None:
    from minictl.client import messages

    call = context.channel.stream("Images/Save", messages.SaveImagesRequest(refs=refs))
    try:
        while (chunk := call.receive()) is not None:
            file.write(chunk.data)
        file.flush()
    finally:
        call.cancel()


PLATFORM = Flag(
    "platform",
    'Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
    kind=values.STRING,
    later=True,
)

PULL = Command(
    "pull",
    "Download an image from a registry to this node",
    _pull,
    arguments="NAME[:TAG|@DIGEST]",
    least=1,
    most=1,
    shown_aliases=("minictl image pull", "minictl pull"),
    flags=(
        Flag("all-tags", "Download all tagged images in the repository", short="a", later=True),
        PLATFORM,
        Flag("quiet", "Suppress verbose output", short="q"),
    ),
)

PUSH = Command(
    "push",
    "Upload an image of this node to a registry",
    _push,
    arguments="NAME[:TAG]",
    least=1,
    most=1,
    shown_aliases=("minictl image push", "minictl push"),
    flags=(
        Flag("all-tags", "Push all tags of an image to the repository", short="a", later=True),
        PLATFORM,
        Flag("quiet", "Suppress verbose output", short="q"),
    ),
)

SAVE = Command(
    "save",
    "Save one or more images of this node to a tar archive (streamed to STDOUT by default)",
    _save,
    arguments="IMAGE [IMAGE...]",
    least=1,
    most=None,
    shown_aliases=("minictl image save", "minictl save"),
    flags=(
        Flag("output", "Write to a file, instead of STDOUT", short="o", kind=values.STRING),
        PLATFORM,
    ),
)
