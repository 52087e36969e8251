"""What `minictl secret` and `minictl config` do alike."""

from __future__ import annotations

import sys

from minictl import values
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minictl.context import Context

LABEL = Flag("label", "Labels", short="l", kind=values.LABEL)
TEMPLATE_DRIVER = Flag("template-driver", "Template driver", kind=values.STRING)
MAX_READ_BYTES = 1_024_000
"""No content may be larger (SwarmKit's limit of a config); more than one byte over it is not even read."""


def read(path: str) -> bytes:
    """The content of a file, or of standard input for `-`. Raises CliError."""
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_READ_BYTES + 1)
        with open(path, "rb") as file:
            return file.read(MAX_READ_BYTES + 1)
    except OSError as error:
        reason = f"open {path}: {(error.strerror or str(error)).lower()}"
        raise CliError(f"error reading content from {values.quote(path)}: {reason}") from error


def inspect_pretty(
    context: Context, refs: list[str], *, kind: str, format: str, show: Callable[[str], str]
) -> int:
    """`inspect --pretty`. Raises CliError when a template is asked for besides."""
    from minicommon.errors import NotFoundError

    if format:
        raise CliError("--format is incompatible with human friendly format")

    def one(ref: str) -> None:
        try:
            context.print(show(ref))
        except NotFoundError:
            raise CliError(f"no such {kind}: {ref}") from None

    return common.for_each(refs, one)


def remove(context: Context, refs: list[str], call: Callable[[str], Any]) -> int:
    """`rm`: all of them, even when some fail."""

    def one(ref: str) -> None:
        call(ref)
        context.print(ref)

    return common.for_each(refs, one)
