"""The HTTP/2 client against a scripted peer: the frames that a friendly server seldom sends."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import hpack
import pytest
from minicommon.errors import DeadlineError, UnavailableError
from minictl.client import http2
from minictl.client.http2 import Connection

TRAILERS = [("grpc-status", "0")]


class Peer:
    """The server's end of a socket pair: sends frames, reads frames."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.encoder = hpack.Encoder()
        self._buffer = b""

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.sock.sendall(
            struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
        )

    def headers(self, headers: list[tuple[str, str]], *, stream: int = 1, end: bool = False) -> None:
        flags = http2.END_HEADERS | (http2.END_STREAM if end else 0)
        self.send(http2.HEADERS, flags, stream, self.encoder.encode(headers))

    def preface(self) -> None:
        while len(self._buffer) < len(http2.PREFACE):
            self._buffer += self.sock.recv(65536)
        assert self._buffer.startswith(http2.PREFACE)
        self._buffer = self._buffer[len(http2.PREFACE) :]

    def frame(self) -> tuple[int, int, int, bytes]:
        """Kind, flags, stream and payload of the next frame."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
            self._buffer += self.sock.recv(65536)
        size = int.from_bytes(self._buffer[:3], "big")
        head, payload = self._buffer[:9], self._buffer[9 : 9 + size]
        self._buffer = self._buffer[9 + size :]
        return head[3], head[4], int.from_bytes(head[5:9], "big"), payload

    def until(self, kind: int) -> tuple[int, int, bytes]:
        """Flags, stream and payload of the next frame of this kind."""
        while True:
            found, flags, stream, payload = self.frame()
            if found == kind:
                return flags, stream, payload


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Peer]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    connection = Connection(ours, authority="localhost", scheme="http")
    peer = Peer(theirs)
    connection.open_stream([(":method", "POST")], deadline=None)
    peer.preface()
    yield connection, peer
    connection.close()
    theirs.close()


def receive(connection: Connection) -> http2.Event:
    return connection.receive(deadline=time.monotonic() + 30)


def test_settings_and_pings_are_answered(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.send(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 10))
    peer.send(http2.PING, 0, 0, b"12345678")
    peer.headers([(":status", "200")])
    assert receive(connection).headers == [(":status", "200")]
    assert peer.until(http2.HEADERS)[1] == 1
    assert peer.until(http2.SETTINGS) == (http2.ACK, 0, b"")
    assert peer.until(http2.PING) == (http2.ACK, 0, b"12345678")


def test_sending_waits_for_the_window(pair: tuple[Connection, Peer]) -> None:
    """With 10 bytes of window only 10 bytes go out; an update of both windows lets the rest follow."""
    connection, peer = pair
    peer.send(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 10))
    peer.send(http2.PING, 0, 0, b"12345678")
    peer.headers([(":status", "200")])
    receive(connection)
    with pytest.raises(DeadlineError):
        connection.send_data(b"x" * 15, end=True, deadline=time.monotonic() + 0.05)
    assert peer.until(http2.DATA)[2] == b"x" * 10
    peer.send(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 5))
    assert connection.send_data(b"y" * 5, end=True, deadline=time.monotonic() + 30)
    assert peer.until(http2.DATA) == (http2.END_STREAM, 1, b"y" * 5)


def test_a_smaller_frame_size_is_kept(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    assert connection.send_data(b"z" * 40_000, end=True, deadline=time.monotonic() + 30)
    sizes = [len(peer.until(http2.DATA)[2]) for _ in range(3)]
    assert sizes == [16_384, 16_384, 7_232]


def test_headers_in_pieces_with_padding_and_priority(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    block = peer.encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    first, rest = block[:3], block[3:]
    payload = bytes([2]) + b"\0" * 5 + first + b"\0\0"
    peer.send(http2.HEADERS, http2.PADDED | http2.PRIORITY, 1, payload)
    peer.send(http2.CONTINUATION, http2.END_HEADERS, 1, rest)
    assert receive(connection).headers == [(":status", "200"), ("content-type", "application/grpc")]


def test_padded_data(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.send(http2.DATA, http2.PADDED | http2.END_STREAM, 1, b"\x03abc\0\0\0")
    event = receive(connection)
    assert (event.data, event.end) == (b"abc", True)


@pytest.mark.parametrize(("code", "message"), [(8, "canceled"), (7, "refused"), (2, "HTTP/2 error 2")])
def test_a_reset_stream(pair: tuple[Connection, Peer], code: int, message: str) -> None:
    connection, peer = pair
    peer.send(http2.RST_STREAM, 0, 1, struct.pack(">I", code))
    with pytest.raises(UnavailableError, match=message):
        receive(connection)
    assert connection.usable


def test_a_reset_after_the_answer_is_no_error(pair: tuple[Connection, Peer]) -> None:
    """A server that has answered may tell the client to stop sending."""
    connection, peer = pair
    peer.headers(TRAILERS, end=True)
    peer.send(http2.RST_STREAM, 0, 1, struct.pack(">I", 0))
    assert connection.send_data(b"x" * 70_000, end=True, deadline=time.monotonic() + 30) is False
    assert receive(connection).headers == TRAILERS


def test_goaway_lets_the_current_call_finish(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.send(http2.GOAWAY, 0, 0, struct.pack(">II", 1, 0))
    peer.headers(TRAILERS, end=True)
    assert receive(connection).end
    assert not connection.usable


def test_goaway_before_the_call_was_taken(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.send(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"restarting")
    with pytest.raises(UnavailableError, match="the daemon ended the connection: restarting"):
        receive(connection)


def test_the_tail_of_a_canceled_call_is_skipped(pair: tuple[Connection, Peer]) -> None:
    """Its headers still feed the header table, its data the connection's window."""
    connection, peer = pair
    connection.cancel()
    assert peer.until(http2.RST_STREAM)[1] == 1
    peer.headers([("x-long-name", "kept in the table")])
    peer.send(http2.DATA, 0, 1, b"late")
    connection.open_stream([(":method", "POST")], deadline=None)
    peer.headers([("x-long-name", "kept in the table")], stream=3)
    assert receive(connection).headers == [("x-long-name", "kept in the table")]


def test_received_data_gives_window_back(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    part = b"d" * (32 << 10)
    for _ in range(http2.OUR_WINDOW // 2 // len(part)):
        peer.send(http2.DATA, 0, 1, part)
        assert receive(connection).data == part
    peer.until(http2.WINDOW_UPDATE)  # the connection's, in the greeting
    assert peer.until(http2.WINDOW_UPDATE)[1:] == (0, struct.pack(">I", http2.OUR_WINDOW // 2))
    assert peer.until(http2.WINDOW_UPDATE)[1:] == (1, struct.pack(">I", http2.OUR_WINDOW // 2))


@pytest.mark.parametrize(
    ("kind", "flags", "payload", "message"),
    [
        (http2.PUSH_PROMISE, 0, b"", "pushed a stream"),
        (http2.CONTINUATION, 0, b"", "continues nothing"),
        (http2.HEADERS, http2.END_HEADERS, b"\xfe", "headers that cannot be read"),
        (http2.DATA, http2.PADDED, b"\x09ab", "more padding than payload"),
    ],
)
def test_broken_frames(
    pair: tuple[Connection, Peer], kind: int, flags: int, payload: bytes, message: str
) -> None:
    connection, peer = pair
    peer.send(kind, flags, 1, payload)
    with pytest.raises(UnavailableError, match=message):
        receive(connection)


def test_a_frame_that_is_too_long(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.sock.sendall(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
    with pytest.raises(UnavailableError, match="a frame of 16777215 bytes"):
        receive(connection)


def test_a_peer_that_closes(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(UnavailableError):
        receive(connection)


def test_a_timeout_loses_nothing(pair: tuple[Connection, Peer]) -> None:
    connection, peer = pair
    peer.sock.sendall(b"\x00\x00\x03\x00\x00\x00\x00\x00\x01a")
    with pytest.raises(DeadlineError):
        connection.receive(deadline=time.monotonic() + 0.02)
    peer.sock.sendall(b"bc")
    assert receive(connection).data == b"abc"
