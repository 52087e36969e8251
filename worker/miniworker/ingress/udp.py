"""The userspace path for udp: each client's datagrams go to one task, from a socket of their own for the answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from minicommon.clock import SECOND, Clock

from miniworker.ingress.counters import Counters
from miniworker.ingress.poller import IN, Poller
from miniworker.ingress.rotation import Rotation
from miniworker.ingress.table import Port, PortKey

IDLE_NS = 60 * SECOND
"""Without a datagram for so long a flow is over; conntrack's timeout for flows seen both ways is 120 s."""

MAX_FLOWS = 4096
"""Per port; the oldest makes place. One costs a file descriptor."""

_MAX_DATAGRAM = 65535
_BATCH = 64
"""Datagrams of one socket before the others get their turn."""

_IP_PKTINFO = 8  # <linux/in.h>; Python names it from 3.12 on
_ANCILLARY_BYTES = 64

_Address = tuple[Any, ...]
_Asked = tuple[int, int, bytes] | None
"""The address that a datagram was sent to, as the control message that lets an answer come from there."""


class UdpPort:
    """One published udp port."""

    def __init__(self, key: PortKey, counters: Counters, *, poller: Poller, clock: Clock) -> None:
        self._key = key
        self._counters = counters
        self._poller = poller
        self._clock = clock
        self._rotation = Rotation()
        self._listeners: list[_Listener] = []
        self._flows: dict[tuple[_Address, _Asked], _Flow] = {}
        self._expiry: asyncio.Task[None] | None = None

    async def open(self, sockets: list[socket.socket]) -> None:
        self._listeners = [_Listener(self, item, self._poller) for item in sockets]
        self._expiry = asyncio.create_task(self._expire(), name=f"idle flows of {self._key}")

    def update(self, port: Port) -> None:
        self._rotation.update(port.backends, port.target_port, sticky=port.sticky)
        allowed = {(str(address), port.target_port) for address in port.backends}
        for key, flow in tuple(self._flows.items()):
            if flow.backend not in allowed:
                self._drop(key)

    def close(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for key in tuple(self._flows):
            self._drop(key)

    async def abort(self) -> None:
        self.close()
        if self._expiry:
            await asyncio.wait({self._expiry})

    def received(self, listener: _Listener, data: bytes, client: _Address, asked: _Asked) -> None:
        """A datagram from a client."""
        key = client, asked
        flow = self._flows.get(key) or self._begin(listener, client, asked)
        if flow is not None:
            flow.send(data)

    def _begin(self, listener: _Listener, client: _Address, asked: _Asked) -> _Flow | None:
        backend = next(self._rotation.order(client[0]), None)
        if backend is None:
            return None
        while len(self._flows) >= MAX_FLOWS:
            self._drop(next(iter(self._flows)))
        try:
            target = str(backend), self._rotation.target_port
            flow = _Flow(listener, client, asked, target, poller=self._poller, clock=self._clock)
        except OSError:  # no route, or no descriptor: the datagram is lost, as on any network
            return None
        self._rotation.took(client[0], backend)
        self._flows[client, asked] = flow
        self._counters.opened()
        return flow

    def _drop(self, key: tuple[_Address, _Asked]) -> None:
        self._flows.pop(key).close()
        self._counters.closed()

    async def _expire(self) -> None:
        while True:
            now_ns = self._clock.now_ns()
            for key in [key for key, item in self._flows.items() if now_ns - item.used_ns >= IDLE_NS]:
                self._drop(key)
            oldest = min((item.used_ns for item in self._flows.values()), default=now_ns)
            await self._clock.sleep_until(oldest + IDLE_NS)


class _Listener:
    """A socket on the published port. An answer leaves from the address that was asked, of the many a node may have."""

    def __init__(self, port: UdpPort, sock: socket.socket, poller: Poller) -> None:
        self._port = port
        self._sock = sock
        self._poller = poller
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        poller.watch(sock, IN, self._ready)

    def close(self) -> None:
        self._poller.close_socket(self._sock)

    def answer(self, data: bytes, client: _Address, asked: _Asked) -> None:
        try:
            self._sock.sendmsg([data], [asked] if asked else [], 0, client)
        except OSError:
            return  # the client is gone or the way is full: lost, as on any network

    def _ready(self) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, client = self._sock.recvmsg(_MAX_DATAGRAM, _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # what became of an earlier answer
            self._port.received(self, data, client, _asked(ancillary))


class _Flow:
    """A client and its task."""

    def __init__(
        self,
        listener: _Listener,
        client: _Address,
        asked: _Asked,
        backend: tuple[str, int],
        *,
        poller: Poller,
        clock: Clock,
    ) -> None:
        self.backend = backend
        self.used_ns = clock.now_ns()
        self._listener = listener
        self._client = client
        self._asked = asked
        self._poller = poller
        self._clock = clock
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.connect(backend)
        except OSError:
            self._sock.close()
            raise
        poller.watch(self._sock, IN, self._ready)

    def send(self, data: bytes) -> None:
        self.used_ns = self._clock.now_ns()
        try:
            self._sock.send(data)
        except OSError:
            return  # the task's port is closed: for udp that is not the end, and the client hears nothing

    def close(self) -> None:
        self._poller.close_socket(self._sock)

    def _ready(self) -> None:
        for _ in range(_BATCH):
            try:
                data = self._sock.recv(_MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            self.used_ns = self._clock.now_ns()
            self._listener.answer(data, self._client, self._asked)


def _asked(ancillary: list[tuple[int, int, bytes]]) -> _Asked:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, local, _ = struct.unpack("=I4s4s", data)  # interface, our address, the header's
            return level, kind, struct.pack("=I4s4s", 0, local, bytes(4))
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, interface = struct.unpack("=16sI", data)
            link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
            return level, kind, struct.pack("=16sI", address, interface if link_local else 0)
    return None
