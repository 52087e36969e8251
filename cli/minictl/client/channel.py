"""gRPC calls: unary, a stream of responses, a stream of requests, and both at once.

`Channel` is the seam that commands use; `FastChannel` is its implementation on our own HTTP/2 client. Statuses become
the errors of `minicommon.errors`. One call at a time: open the next when the one before is over or canceled.
"""

from __future__ import annotations

import time

from minicommon.errors import DeadlineError

from minictl.client import codec, endpoint
from minictl.client.schema import METHODS
from minictl.client.status import OK, RemoteError, error_for, percent_decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from minictl.client.endpoint import Endpoint
    from minictl.client.http2 import Connection, Event

    class Responses(Protocol):
        """A stream of responses that is being received."""

        def receive(self, timeout: float | None = None) -> Any:
            """The next message; None when the daemon has ended the stream.

            Raises DeadlineError when nothing arrives within `timeout` seconds; calling again goes on waiting.
            """

        def cancel(self) -> None:
            """Stop it."""

    class Duplex(Responses, Protocol):
        """A call that sends and receives in any order."""

        def send(self, message: Any, *, end: bool = False) -> bool:
            """Send one request; False when the daemon wants no more."""

        def fileno(self) -> int:
            """Readable when something has arrived. First `receive` all that is there: it may have been read already."""

    class Channel(Protocol):
        """Methods are `Services/List`; requests and responses are the messages of `minictl.client.messages`."""

        def unary(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
            """The response to one request. `timeout` in seconds."""

        def stream(self, method: str, request: Any) -> Responses:
            """The stream of responses to one request."""

        def upload(self, method: str, requests: Iterable[Any]) -> Any:
            """The response to a stream of requests."""

        def duplex(self, method: str) -> Duplex:
            """A call with streams in both directions."""

        def close(self) -> None: ...

else:
    Responses = Duplex = Channel = object


PACKAGE = "mini.v1"

DEFAULT_SECONDS = 60.0
"""For a unary call: longer than any of them should take, so a hung daemon ends in a message."""

_MAX_MESSAGE = 256 << 20
"""Bytes. A length above it is a broken stream, not an answer."""


class FastChannel(Channel):
    """Calls over one connection, which is made by the first of them."""

    def __init__(self, target: Endpoint) -> None:
        self._target = target
        self._connection: Connection | None = None

    def unary(self, method: str, request: Any, *, timeout: float | None = DEFAULT_SECONDS) -> Any:
        call = self._start(method, timeout)
        call.send(request, end=True)
        return call.single()

    def stream(self, method: str, request: Any) -> Responses:
        call = self._start(method, None)
        call.send(request, end=True)
        return call

    def upload(self, method: str, requests: Iterable[Any]) -> Any:
        call = self._start(method, None)
        for request in requests:
            if not call.send(request, end=False):
                return call.single()
        call.finish()
        return call.single()

    def duplex(self, method: str) -> Duplex:
        return self._start(method, None)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _start(self, method: str, timeout: float | None) -> _Call:
        connection = self._connection
        if connection is None or not connection.usable:
            self.close()
            connection = self._connection = endpoint.connect(self._target)
        return _Call(connection, method, timeout)


class _Call(Duplex):
    def __init__(self, connection: Connection, method: str, timeout: float | None) -> None:
        self._connection = connection
        self._response = codec.message_class(METHODS[method][1])
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._buffer = bytearray()
        self._ended = False
        request = [
            (":method", "POST"),
            (":scheme", connection.scheme),
            (":path", f"/{PACKAGE}.{method}"),
            (":authority", connection.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "minictl"),
        ]
        if timeout is not None:
            request.append(("grpc-timeout", f"{max(1, int(timeout * 1000))}m"))
        connection.open_stream(request, deadline=self._deadline)

    def send(self, message: Any, *, end: bool = False) -> bool:
        """Send one request; False when the daemon wants no more."""
        data = message.SerializeToString()
        prefix = b"\0" + len(data).to_bytes(4, "big")
        return self._connection.send_data(prefix + data, end=end, deadline=self._deadline)

    def fileno(self) -> int:
        return self._connection.fileno()

    def finish(self) -> None:
        self._connection.send_data(b"", end=True, deadline=self._deadline)

    def single(self) -> Any:
        """The one response, once the status says that all is well."""
        message = self._next(self._deadline)
        if message is None:
            raise RemoteError("the daemon sent no response")
        while self._next(self._deadline) is not None:
            raise RemoteError("the daemon sent more than one response")
        return message

    def receive(self, timeout: float | None = None) -> Any:
        return self._next(None if timeout is None else time.monotonic() + timeout)

    def cancel(self) -> None:
        if not self._ended:
            self._ended = True
            self._connection.cancel()

    def _next(self, deadline: float | None) -> Any:
        while True:
            message = self._message()
            if message is not None:
                return message
            if self._ended:
                return None
            try:
                event = self._connection.receive(deadline=deadline)
            except DeadlineError:
                if self._deadline is not None:
                    self.cancel()
                raise
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        self._buffer += event.data
        status = _check(event)
        if event.end:
            self._ended = True
            if status is None:
                raise RemoteError("the daemon ended the call without a status")
            if self._buffer and status[0] == OK and self._complete_size() is None:
                raise RemoteError("the daemon ended the call in the middle of a message")
        if status is not None and status[0] != OK:
            self._ended = True
            raise error_for(*status)

    def _complete_size(self) -> int | None:
        """Bytes of the first message in the buffer without its prefix; None while it is not complete."""
        if len(self._buffer) < 5:
            return None
        size = int.from_bytes(self._buffer[1:5], "big")
        if self._buffer[0] or size > _MAX_MESSAGE:
            raise RemoteError("the daemon sent a message that is compressed or impossibly long")
        return size if len(self._buffer) >= 5 + size else None

    def _message(self) -> Any:
        size = self._complete_size()
        if size is None:
            return None
        data = bytes(self._buffer[5 : 5 + size])
        del self._buffer[: 5 + size]
        try:
            return self._response.FromString(data)
        except codec.Malformed as error:
            raise RemoteError(f"the daemon sent a message that cannot be read: {error}") from error


def _check(event: Event) -> tuple[int, str] | None:
    """The gRPC status in a block of headers, if it has one."""
    if event.headers is None:
        return None
    found = dict(event.headers)
    http_status = found.get(":status", "200")
    if "grpc-status" in found:
        code = found["grpc-status"]
        return int(code) if code.isdigit() else 2, percent_decode(found.get("grpc-message", ""))
    if http_status != "200":
        raise RemoteError(
            f"the daemon answered with HTTP status {http_status}; is something else on that address?"
        )
    return None
