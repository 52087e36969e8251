"""The client's side of HTTP/2 (RFC 9113) on a blocking socket, one stream at a time.

A command makes a handful of calls one after another, so there is no multiplexing: frames of other streams can only be
the tail of a call that was given up. Those still count for flow control and for the header tables, and nothing else.
Nothing is lost when waiting times out: what has arrived stays in the buffer.
"""

from __future__ import annotations

import struct
import time

from minicommon.errors import DeadlineError, UnavailableError

from minictl.client import headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Socket(Protocol):
        def settimeout(self, seconds: float | None, /) -> None: ...
        def sendall(self, data: bytes, /) -> None: ...
        def recv(self, size: int, /) -> bytes: ...
        def close(self) -> None: ...
        def fileno(self) -> int: ...


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0
HEADERS = 1
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

_SETTING_ENABLE_PUSH = 2
_SETTING_INITIAL_WINDOW = 4
_SETTING_MAX_FRAME = 5

_CANCEL = 8
_REFUSED_STREAM = 7

_DEFAULT_WINDOW = 65_535
"""Bytes; what both sides start with (RFC 9113, 6.9.2)."""

OUR_WINDOW = 8 << 20
"""Bytes that the daemon may send before it hears from us; per stream, and for the connection."""

_OUR_MAX_FRAME = 1 << 20
"""Bytes; fewer, larger frames for long lists."""

_RECEIVE_SIZE = 1 << 16
_NO_TIMEOUT: float | None = None


class Event:
    """What happened on the current stream: `headers` (the first block or the trailers) or `data`; `end` closes it."""

    __slots__ = ("data", "end", "headers")

    def __init__(self, headers: list[tuple[str, str]] | None, data: bytes, end: bool) -> None:
        self.headers = headers
        self.data = data
        self.end = end


class Connection:
    """One HTTP/2 connection. Its methods raise UnavailableError when the connection or the stream breaks, and
    DeadlineError when `deadline` (of time.monotonic) passes."""

    def __init__(self, socket: Socket, *, authority: str, scheme: str) -> None:
        self.authority = authority
        self.scheme = scheme
        self._socket = socket
        self._buffer = bytearray()
        self._decoder = headers.Decoder()
        self._block = b""
        self._block_stream = 0
        self._block_flags = 0
        self._stream = 0
        self._next_stream = 1
        self._send_window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._peer_initial_window = _DEFAULT_WINDOW
        self._peer_max_frame = 16_384
        self._unacknowledged = 0
        self._stream_unacknowledged = 0
        self._goaway = ""
        self._events: list[Event] = []
        self._greeting = PREFACE + _settings() + _window_update(0, OUR_WINDOW - _DEFAULT_WINDOW)

    @property
    def usable(self) -> bool:
        """Whether a new stream may be opened."""
        return not self._goaway

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Of the socket, to wait with others; what has been read from it already is not seen there."""
        return self._socket.fileno()

    # --- sending ---

    def open_stream(self, request: list[tuple[str, str]], *, deadline: float | None) -> None:
        """Start a request; the stream before it is over or given up."""
        self._stream = self._next_stream
        self._next_stream += 2
        self._stream_window = self._peer_initial_window
        self._stream_unacknowledged = 0
        self._events.clear()
        block = headers.encode(request)
        first, rest = block[: self._peer_max_frame], block[self._peer_max_frame :]
        data = self._greeting + _frame(HEADERS, 0 if rest else END_HEADERS, self._stream, first)
        self._greeting = b""
        while rest:
            part, rest = rest[: self._peer_max_frame], rest[self._peer_max_frame :]
            data += _frame(CONTINUATION, 0 if rest else END_HEADERS, self._stream, part)
        self._send(data, deadline)

    def send_data(self, data: bytes, *, end: bool, deadline: float | None) -> bool:
        """Send a part of the request's body, as the daemon's windows allow.

        Returns False when the daemon has already answered in full and wants no more.
        """
        view = memoryview(data)
        while True:
            room = min(self._send_window, self._stream_window, self._peer_max_frame)
            if view and room <= 0:
                self._read_frame(deadline)
            else:
                part, view = view[: max(room, 0)], view[max(room, 0) :]
                self._send_window -= len(part)
                self._stream_window -= len(part)
                last = end and not view
                self._send(_frame(DATA, END_STREAM if last else 0, self._stream, bytes(part)), deadline)
            if self._events and self._events[-1].end:
                return False
            if not view:
                return True

    def cancel(self) -> None:
        """Give the current stream up; the connection stays usable."""
        if self._stream:
            stream, self._stream = self._stream, 0
            self._send(_frame(RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)), time.monotonic() + 1)

    # --- receiving ---

    def receive(self, *, deadline: float | None) -> Event:
        """The next event of the current stream."""
        while not self._events:
            self._read_frame(deadline)
        event = self._events.pop(0)
        if event.end:
            self._stream = 0
        return event

    def _read_frame(self, deadline: float | None) -> None:
        head = self._take(9, deadline)
        size = int.from_bytes(head[:3], "big")
        if size > _OUR_MAX_FRAME:
            raise UnavailableError(
                f"the daemon sent a frame of {size} bytes, at most {_OUR_MAX_FRAME} are allowed"
            )
        frame = self._take(9 + size, deadline)
        del self._buffer[: 9 + size]
        kind, flags = head[3], head[4]
        stream = int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF
        self._handle(kind, flags, stream, frame[9:])

    def _take(self, size: int, deadline: float | None) -> bytes:
        while len(self._buffer) < size:
            self._wait_until(deadline)
            try:
                data = self._socket.recv(_RECEIVE_SIZE)
            except TimeoutError:
                raise DeadlineError("the daemon did not answer in time") from None
            except OSError as error:
                raise UnavailableError(
                    f"the connection to the daemon broke: {error.strerror or error}"
                ) from error
            if not data:
                raise UnavailableError(self._goaway or "the daemon closed the connection")
            self._buffer += data
        return bytes(self._buffer[:size])

    def _send(self, data: bytes, deadline: float | None) -> None:
        self._wait_until(deadline)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise DeadlineError("the daemon did not take the request in time") from None
        except OSError as error:
            raise UnavailableError(
                f"the connection to the daemon broke: {error.strerror or error}"
            ) from error

    def _wait_until(self, deadline: float | None) -> None:
        if deadline is None:
            self._socket.settimeout(_NO_TIMEOUT)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError("the daemon did not answer in time")
        self._socket.settimeout(left)

    # --- frames ---

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._on_data(flags, stream, payload)
        elif kind in (HEADERS, CONTINUATION):
            self._on_headers(kind, flags, stream, payload)
        elif kind == RST_STREAM:
            self._on_reset(stream, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PING and not flags & ACK:
            self._send(_frame(PING, ACK, 0, payload), None)
        elif kind == GOAWAY:
            self._on_goaway(payload)
        elif kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big") & 0x7FFF_FFFF
            if stream == 0:
                self._send_window += increment
            elif stream == self._stream:
                self._stream_window += increment
        elif kind == PUSH_PROMISE:
            raise UnavailableError("the daemon pushed a stream, which was not allowed")

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged >= OUR_WINDOW // 2:
            self._send(_window_update(0, self._unacknowledged), None)
            self._unacknowledged = 0
        if stream != self._stream:
            return
        self._stream_unacknowledged += len(payload)
        end = bool(flags & END_STREAM)
        if self._stream_unacknowledged >= OUR_WINDOW // 2 and not end:
            self._send(_window_update(stream, self._stream_unacknowledged), None)
            self._stream_unacknowledged = 0
        self._events.append(Event(None, _unpad(flags, payload), end))

    def _on_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            payload = _unpad(flags, payload)
            if flags & PRIORITY:
                payload = payload[5:]
            self._block, self._block_stream, self._block_flags = payload, stream, flags
        elif stream != self._block_stream:
            raise UnavailableError("the daemon sent a CONTINUATION frame that continues nothing")
        else:
            self._block += payload
        if not flags & END_HEADERS:
            return
        try:
            decoded = self._decoder.decode(self._block)
        except headers.HeaderError as error:
            raise UnavailableError(f"the daemon sent headers that cannot be read: {error}") from error
        if stream == self._stream:
            self._events.append(Event(decoded, b"", bool(self._block_flags & END_STREAM)))

    def _on_reset(self, stream: int, payload: bytes) -> None:
        if stream != self._stream:
            return
        if self._events and self._events[-1].end:
            return  # answered in full before it read all of the request: allowed
        self._stream = 0
        code = int.from_bytes(payload[:4], "big")
        what = {_CANCEL: "canceled", _REFUSED_STREAM: "refused"}.get(code, f"reset (HTTP/2 error {code})")
        raise UnavailableError(f"the call was {what} by the daemon")

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for at in range(0, len(payload) - 5, 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _SETTING_INITIAL_WINDOW:
                self._stream_window += value - self._peer_initial_window
                self._peer_initial_window = value
            elif name == _SETTING_MAX_FRAME:
                self._peer_max_frame = value
        self._send(_frame(SETTINGS, ACK, 0, b""), None)

    def _on_goaway(self, payload: bytes) -> None:
        last = int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF
        text = payload[8:].decode("utf-8", "replace")
        self._goaway = f"the daemon ended the connection{f': {text}' if text else ''}"
        if self._stream > last:
            self._stream = 0
            raise UnavailableError(self._goaway)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _settings() -> bytes:
    pairs = (
        (_SETTING_ENABLE_PUSH, 0),
        (_SETTING_INITIAL_WINDOW, OUR_WINDOW),
        (_SETTING_MAX_FRAME, _OUR_MAX_FRAME),
    )
    return _frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def _window_update(stream: int, increment: int) -> bytes:
    return _frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def _unpad(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise UnavailableError("the daemon sent a frame with more padding than payload")
    return payload[1 : len(payload) - padding]
