"""The userspace path for udp: each client's datagrams go to one task, from a socket of their own for the answers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from minicommon.clock import SECOND, Clock

from miniworker.ingress.counters import Counters
from miniworker.ingress.rotation import Rotation
from miniworker.ingress.table import Port, PortKey

IDLE_NS = 60 * SECOND
"""Without a datagram for so long a flow is over; conntrack's timeout for flows seen both ways is 120 s."""

MAX_FLOWS = 4096
"""Per port; the oldest makes place. One costs a file descriptor."""

_Address = tuple[Any, ...]


class UdpPort:
    """One published udp port."""

    def __init__(self, key: PortKey, counters: Counters, *, clock: Clock) -> None:
        self._key = key
        self._counters = counters
        self._clock = clock
        self._rotation = Rotation()
        self._listeners: list[asyncio.DatagramTransport] = []
        self._flows: dict[_Address, _Flow] = {}
        self._expiry: asyncio.Task[None] | None = None

    async def open(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for item in sockets:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Listener(self), sock=item)
            self._listeners.append(transport)
        self._expiry = asyncio.create_task(self._expire(), name=f"idle flows of {self._key}")

    def update(self, port: Port) -> None:
        self._rotation.update(port.backends, port.target_port, sticky=port.sticky)
        allowed = {(str(address), port.target_port) for address in port.backends}
        for flow in tuple(self._flows.values()):
            if flow.backend not in allowed:
                self._drop(flow)

    def close(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        for listener in self._listeners:
            listener.close()
        for flow in tuple(self._flows.values()):
            self._drop(flow)

    async def abort(self) -> None:
        self.close()
        if self._expiry:
            await asyncio.wait({self._expiry})

    def received(self, listener: asyncio.DatagramTransport, data: bytes, client: _Address) -> None:
        """A datagram from a client."""
        flow = self._flows.get(client)
        if flow is None:
            backend = next(self._rotation.order(client[0]), None)
            if backend is None:
                return
            self._rotation.took(client[0], backend)
            while len(self._flows) >= MAX_FLOWS:
                self._drop(next(iter(self._flows.values())))
            target = str(backend), self._rotation.target_port
            flow = self._flows[client] = _Flow(listener, client, target, self._clock)
            self._counters.opened()
        flow.send(data)

    def _drop(self, flow: _Flow) -> None:
        del self._flows[flow.client]
        flow.close()
        self._counters.closed()

    async def _expire(self) -> None:
        while True:
            now_ns = self._clock.now_ns()
            for flow in [item for item in self._flows.values() if now_ns - item.used_ns >= IDLE_NS]:
                self._drop(flow)
            oldest = min((item.used_ns for item in self._flows.values()), default=now_ns)
            await self._clock.sleep_until(oldest + IDLE_NS)


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, port: UdpPort) -> None:
        self._port = port
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        datagrams = cast(asyncio.DatagramTransport, transport)  # Python 3.11 does not declare its own as one
        self._transport = datagrams

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        assert self._transport is not None, "connected before it receives"
        self._port.received(self._transport, data, addr)


class _Flow(asyncio.DatagramProtocol):
    """A client and its task. Datagrams that come while the socket is being made are kept; a few, as a kernel would."""

    _MAX_WAITING = 64

    def __init__(
        self, listener: asyncio.DatagramTransport, client: _Address, backend: tuple[str, int], clock: Clock
    ) -> None:
        self.client = client
        self.backend = backend
        self.used_ns = clock.now_ns()
        self._listener = listener
        self._clock = clock
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._closed = False
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_datagram_endpoint(lambda: self, remote_addr=backend))
        self._opening.add_done_callback(self._opened)

    def send(self, data: bytes) -> None:
        self.used_ns = self._clock.now_ns()
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < self._MAX_WAITING:
            self._waiting.append(data)

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        datagrams = cast(asyncio.DatagramTransport, transport)  # Python 3.11 does not declare its own as one
        if self._closed:
            datagrams.close()
            return
        self._transport = datagrams
        for data in self._waiting:
            datagrams.sendto(data)
        self._waiting.clear()

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        self.used_ns = self._clock.now_ns()
        self._listener.sendto(data, self.client)

    def error_received(self, exc: Exception) -> None:
        """The task's port is closed: for udp that is not the end, and the client hears nothing, as without us."""

    def _opened(self, opening: asyncio.Task[Any]) -> None:
        if not opening.cancelled() and isinstance(opening.exception(), OSError):
            self._waiting.clear()  # no route: these datagrams are lost, as on any network
