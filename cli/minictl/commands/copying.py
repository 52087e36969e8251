"""`minictl cp`: Docker's rules of where things go, over tar archives that are never wholly in memory.

What comes out of a container is unpacked with Python's `data` filter: no link or name in it leads out of its place.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
import threading

from minicommon.errors import NotFoundError

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from miniproto.v1.streams_pb2 import CopyToInput, PathInfo

    from minictl.client.channel import Responses
    from minictl.context import Context
    from minictl.flags import Parsed

BLOCK = 256 << 10
"""Bytes in one message."""


def copy(context: Context, parsed: Parsed) -> int:
    """One of the two is `CONTAINER:PATH`."""
    source, target = parsed.arguments
    source_ref, source_path = split(source)
    target_ref, target_path = split(target)
    if source_ref and target_ref:
        raise CliError("copying between containers is not supported")
    if source_ref:
        return _from(context, parsed, source_ref, source_path, target_path)
    if target_ref:
        return _to(context, parsed, source_path, target_ref, target_path)
    raise CliError("must specify at least one container source")


def split(text: str) -> tuple[str, str]:
    """Container and path; no container for a path of this machine: one that begins with `/` or `.`, or has no colon."""
    if text[:1] in ("/", "."):
        return "", text
    ref, colon, path = text.partition(":")
    return (ref, path) if colon else ("", text)


def _from(context: Context, parsed: Parsed, ref: str, path: str, target: str) -> int:
    from minictl.client import messages

    request = messages.CopyFromRequest(ref=ref, path=path, follow_link=parsed["follow-link"])
    responses = context.channel.stream("Containers/CopyFrom", request)
    first = responses.receive()
    if first is None:
        raise CliError(f"the daemon told nothing of {ref}:{path}")
    about: PathInfo = first.path
    stream = _Incoming(responses)
    if target == "-":
        while data := stream.read(BLOCK):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    directory, name = _place(about, path, target)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK) as archive:  # type: ignore[call-overload]
        for member in archive:
            _, slash, rest = member.name.partition("/")
            member.name = f"{name}{slash}{rest}"
            if member.islnk():
                _, slash, rest = member.linkname.partition("/")
                member.linkname = f"{name}{slash}{rest}"
            archive.extract(member, directory, filter="tar" if parsed["archive"] else "data")
    _say(context, parsed, f"Successfully copied {ref}:{path} to {target}")
    return 0


def _place(about: PathInfo, path: str, target: str) -> tuple[str, str]:
    """The directory to unpack in, and what the top of the archive is called there. Raises CliError."""
    is_directory = stat.S_ISDIR(about.mode)
    content = path.endswith("/.") or path in (".", "/")
    if os.path.isdir(target):
        return (target, ".") if is_directory and content else (target, about.name)
    if os.path.exists(target) and is_directory:
        raise CliError("cannot copy directory")
    parent, name = os.path.split(target.rstrip("/"))
    if target.endswith("/") and not is_directory:
        raise CliError(f"destination directory {target!r} does not exist")
    if parent and not os.path.isdir(parent):
        raise CliError(f"invalid output path: directory {parent!r} does not exist")
    return parent or ".", name


def _to(context: Context, parsed: Parsed, source: str, ref: str, path: str) -> int:
    from minictl.client import messages

    directory, name = (path, "") if source == "-" else _target(context, source, ref, path)
    start = messages.CopyToStart(ref=ref, path=directory, keep_owners=parsed["archive"])

    def requests() -> Iterator[CopyToInput]:
        yield messages.CopyToInput(start=start)
        parts = _standard_input() if source == "-" else _archive(source, name, follow=parsed["follow-link"])
        for part in parts:
            yield messages.CopyToInput(data=part)
        yield messages.CopyToInput(end=True)

    context.channel.upload("Containers/CopyTo", requests())
    _say(context, parsed, f"Successfully copied {source} to {ref}:{path}")
    return 0


def _target(context: Context, source: str, ref: str, path: str) -> tuple[str, str]:
    """The directory in the container, and what the source is called there. Raises CliError."""
    from minictl.client import messages

    if not os.path.lexists(source):
        raise CliError(f"lstat {os.path.abspath(source)}: no such file or directory")
    is_directory = os.path.isdir(source)
    try:
        about = context.call("Containers/StatPath", messages.StatPathRequest(ref=ref, path=path))
        if about.link:
            path = about.link
            about = context.call("Containers/StatPath", messages.StatPathRequest(ref=ref, path=path))
    except NotFoundError as error:
        if "No such container" in error.message:
            raise
        about = None
    if about is not None and stat.S_ISDIR(about.mode):
        content = is_directory and (source.endswith("/.") or source == ".")
        return path, "." if content else os.path.basename(os.path.abspath(source))
    if about is not None and is_directory:
        raise CliError("cannot copy directory")
    if about is None and path.endswith("/") and not is_directory:
        raise CliError(f"destination directory {path!r} does not exist in container {ref}")
    parent, _, name = path.rstrip("/").rpartition("/")
    return parent or "/", name


def _archive(source: str, name: str, *, follow: bool) -> Iterator[bytes]:
    """The tar archive of what is at the path, made by a thread while it is read."""
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with (
                os.fdopen(writer, "wb") as pipe,
                tarfile.open(fileobj=pipe, mode="w|", dereference=follow, bufsize=BLOCK) as archive,
            ):
                archive.add(source, arcname=name)
        except (OSError, tarfile.TarError) as error:
            failures.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    with os.fdopen(reader, "rb") as pipe:
        while data := pipe.read(BLOCK):
            yield data
    thread.join()
    if failures:
        raise CliError(f"cannot read {source}: {failures[0]}")


def _standard_input() -> Iterator[bytes]:
    while data := sys.stdin.buffer.read(BLOCK):
        yield data


def _say(context: Context, parsed: Parsed, text: str) -> None:
    if not parsed["quiet"] and context.err.isatty():
        context.warn(text)


class _Incoming:
    """The archive in the responses, as tarfile reads it."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            response: Any = self._responses.receive()
            if response is None:
                break
            self._rest += response.data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
