"""`minictl service logs`, `task logs` and `logs`: lines with Docker's prefixes, as they come.

The daemon sends no faster than they are written out, so `| less` holds up the reading on the nodes and nothing else.
"""

from __future__ import annotations

import sys

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from miniproto.v1.streams_pb2 import LogLine, LogsQuery, TaskLogs

    from minictl.context import Context
    from minictl.flags import Parsed

_SHORT_ID = 12

_LONGEST = 1 << 20
"""Bytes of a line that are gathered from its parts before it is shown anyway."""


def service_logs(context: Context, parsed: Parsed) -> int:
    """Of a service or one of its tasks."""
    (ref,) = parsed.arguments
    return _show(context, parsed, ref, task=False, prefixed=not parsed["raw"])


def task_logs(context: Context, parsed: Parsed) -> int:
    """Of one task."""
    (ref,) = parsed.arguments
    return _show(context, parsed, ref, task=True, prefixed=not parsed["raw"])


def container_logs(context: Context, parsed: Parsed) -> int:
    """Of one container, without prefixes."""
    (ref,) = parsed.arguments
    return _show(context, parsed, ref, task=True, prefixed=False)


def _show(context: Context, parsed: Parsed, ref: str, *, task: bool, prefixed: bool) -> int:
    from minictl.client import messages

    options = query(parsed, context.now_ns())
    width = _width(context, ref, prefixed=prefixed)
    responses = context.channel.stream(
        "Containers/Logs", messages.LogsRequest(ref=ref, task=task, options=options)
    )
    writer = Writer(
        sys.stdout.buffer,
        sys.stderr.buffer,
        prefix=Prefix(parsed, width=width) if prefixed else None,
        timestamps=parsed["timestamps"],
        details=parsed["details"],
    )
    context.out.flush()
    try:
        while (response := responses.receive()) is not None:
            if response.warning:
                writer.flush()
                context.warn(f"WARNING: {response.warning}")
            if response.HasField("source"):
                writer.add(response.source_number, response.source)
            for line in response.lines:
                writer.write(response.source_number, line)
            writer.flush()
    finally:
        responses.cancel()
        writer.finish()
    return 0


def query(parsed: Parsed, now_ns: int) -> LogsQuery:
    """What the flags ask for. Raises CliError."""
    from minictl.client import messages

    options = messages.LogsQuery(follow=parsed["follow"])
    if parsed["since"]:
        options.since_ns = moment(parsed["since"], now_ns)
    if parsed["until"]:
        options.until_ns = moment(parsed["until"], now_ns)
    if parsed["tail"] != "all":
        text = parsed["tail"]
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise CliError(f'invalid value for --tail: "{text}": must be a number or "all"')
        if digits == text:
            options.tail = int(text)
    return options


def moment(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 of a date, a Unix time, or so long ago. Raises CliError."""
    from datetime import datetime

    from minicommon.errors import MiniError
    from minicommon.units import parse_duration

    seconds, _, fraction = text.partition(".")
    if seconds.isascii() and seconds.isdigit() and (not fraction or fraction.isdigit()):
        return int(seconds) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
    try:
        return now_ns - parse_duration(text)
    except (MiniError, ValueError):
        pass
    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    zone = rest[len(digits) :]
    try:
        found = datetime.fromisoformat((whole + zone).replace("Z", "+00:00"))
    except ValueError:
        raise CliError(f'failed to parse value as time or duration: "{text}"') from None
    return int(found.astimezone().timestamp()) * 1_000_000_000 + int((digits + "0" * 9)[:9])


def _width(context: Context, ref: str, *, prefixed: bool) -> int:
    """Digits of the highest slot, which prefixes are padded to (docker/cli `cli/command/service/logs.go`)."""
    from minicommon.errors import NotFoundError

    from minictl.client import messages

    if not prefixed:
        return 0
    try:
        spec = context.call("Services/Get", messages.GetRequest(ref=ref)).service.spec
    except NotFoundError:  # it is a task, or nothing: the call for the logs tells
        return 1
    return len(str(max(spec.replicas, 1)))


class Prefix:
    """`web.1.ab12cd34ef56@core-01    | `."""

    def __init__(self, parsed: Parsed, *, width: int) -> None:
        self._resolve = not parsed["no-resolve"]
        self._ids = not parsed["no-task-ids"]
        self._truncate = not parsed["no-trunc"]
        self._width = width

    def of(self, source: TaskLogs) -> bytes:
        name = source.task_name
        if not self._resolve:
            _, _, place = source.task_name.rpartition(".")
            name = f"{source.service_id}.{place}"
        if self._ids:
            name += f".{source.task_id[:_SHORT_ID] if self._truncate else source.task_id}"
        node = source.node_hostname if self._resolve and source.node_hostname else source.node_id
        padding = " " * max(0, self._width - len(str(source.slot)))
        return f"{name}@{node}{padding}    | ".encode()


class Writer:
    """Writes lines to where they belong: what went to standard error there goes there here."""

    def __init__(
        self, out: BinaryIO, err: BinaryIO, *, prefix: Prefix | None, timestamps: bool, details: bool
    ) -> None:
        self._out = out
        self._err = err
        self._prefix = prefix
        self._timestamps = timestamps
        self._details = details
        self._heads: dict[int, tuple[bytes, bytes]] = {}
        self._partial: dict[tuple[int, bool], tuple[int, bytes]] = {}

    def add(self, number: int, source: Any) -> None:
        """A source by the number that its lines have."""
        prefix = self._prefix.of(source) if self._prefix else b""
        extra = ",".join(f"{key}={source.details[key]}" for key in sorted(source.details))
        self._heads[number] = prefix, f"{extra} ".encode() if self._details and extra else b""

    def write(self, number: int, line: LogLine) -> None:
        key = number, line.stderr
        time_ns, begun = self._partial.pop(key, (line.time_ns, b""))
        data = begun + line.data
        if line.partial and len(data) < _LONGEST:
            self._partial[key] = time_ns, data
            return
        self._put(number, line.stderr, time_ns, data)

    def _put(self, number: int, stderr: bool, time_ns: int, data: bytes) -> None:
        prefix, details = self._heads.get(number, (b"", b""))
        time = timestamp(time_ns) + b" " if self._timestamps else b""
        (self._err if stderr else self._out).write(time + prefix + details + data + b"\n")

    def flush(self) -> None:
        self._out.flush()
        self._err.flush()

    def finish(self) -> None:
        """What has no end yet is shown without one."""
        for (number, stderr), (time_ns, data) in self._partial.items():
            self._put(number, stderr, time_ns, data)
        self._partial.clear()
        self.flush()


def timestamp(nanoseconds: int) -> bytes:
    """RFC 3339 with nine decimals, as Docker's logs have it."""
    import time

    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z".encode()
