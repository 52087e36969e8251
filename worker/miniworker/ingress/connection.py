"""Two connected sockets, and the bytes carried between them.

Each direction has at most one chunk that its receiver has not taken yet; while there is one, nothing more is read from
the sender, whom the kernel then holds up. The end of one direction is passed on and the other goes on; a reset on one
side resets the other.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from miniworker.ingress.poller import IN, OUT, Poller

CHUNK_BYTES = 256 * 1024
"""Received at once, and so the most that one direction of a connection holds."""

_buffer = bytearray(CHUNK_BYTES)
"""One for all: what it holds is sent, or kept elsewhere, before anything else is received."""
_view = memoryview(_buffer)

_NO_LINGER = struct.pack("ii", 1, 0)


class _Side:
    """One socket: what still has to be sent to it, and whether it has said all."""

    __slots__ = ("ended", "events", "pending", "shut", "sock")

    def __init__(self, sock: socket.socket, pending: bytes = b"") -> None:
        self.sock = sock
        self.pending = pending
        self.ended = False
        """It sends no more."""
        self.shut = False
        """It has been told that it gets no more."""
        self.events = 0


class Connection:
    """Carries from `start` until both sides have ended, or one was reset; then it calls `ended` with itself."""

    __slots__ = ("_backend", "_client", "_ended", "_open", "_poller")

    def __init__(
        self,
        poller: Poller,
        client: socket.socket,
        backend: socket.socket,
        *,
        header: bytes,
        ended: Callable[[Connection], None],
    ) -> None:
        """`header` is sent to the backend before all else. The backend's socket is watched already, for OUT."""
        self._poller = poller
        self._client = _Side(client)
        self._backend = _Side(backend, header)
        self._backend.events = OUT
        self._ended = ended
        self._open = True

    def start(self) -> None:
        if self._backend.pending:
            self._flush(self._backend)
        # What a client has to say it has mostly said by now.
        self._client_ready()

    def reset(self) -> None:
        """End it at once: both sides learn that not all was said."""
        for side in (self._client, self._backend):
            reset_on_close(side.sock)
        self._close()

    def _client_ready(self) -> None:
        self._ready(self._client, self._backend)

    def _backend_ready(self) -> None:
        self._ready(self._backend, self._client)

    def _ready(self, side: _Side, other: _Side) -> None:
        try:
            if side.pending:
                self._flush(side)
            if not side.ended and not other.pending:
                self._carry(side, other)
            if side.ended and not other.pending and not other.shut:
                other.sock.shutdown(socket.SHUT_WR)
                other.shut = True
            if other.ended and not side.pending and not side.shut:
                side.sock.shutdown(socket.SHUT_WR)
                side.shut = True
        except OSError:
            if self._open:
                self.reset()
            return
        if side.shut and other.shut:
            self._close()
            return
        self._interest(side, other)
        self._interest(other, side)

    @staticmethod
    def _carry(source: _Side, sink: _Side) -> None:
        try:
            size = source.sock.recv_into(_buffer)
        except (BlockingIOError, InterruptedError):
            return
        if size == 0:
            source.ended = True
            return
        try:
            sent = sink.sock.send(_view[:size])
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < size:
            sink.pending = bytes(_view[sent:size])

    @staticmethod
    def _flush(side: _Side) -> None:
        try:
            sent = side.sock.send(side.pending)
        except (BlockingIOError, InterruptedError):
            return
        side.pending = side.pending[sent:]

    def _interest(self, side: _Side, other: _Side) -> None:
        """Watch for what can be done next. Nothing: not at all, or the kernel would tell of its end for ever."""
        events = (0 if side.ended or other.pending else IN) | (OUT if side.pending else 0)
        if events == side.events:
            return
        if events == 0:
            self._poller.forget(side.sock)
        else:
            handler = self._client_ready if side is self._client else self._backend_ready
            self._poller.watch(side.sock, events, handler)
        side.events = events

    def _close(self) -> None:
        self._open = False
        for side in (self._client, self._backend):
            self._poller.close_socket(side.sock)
        self._ended(self)


def reset_on_close(item: socket.socket) -> None:
    """Let closing end the connection with a reset: the other side learns that not all has been said."""
    item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
