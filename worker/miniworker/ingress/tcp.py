"""The userspace path for tcp: accepts on the published port and joins the connection with one to a task."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from minicommon.log import fields

from miniworker.ingress.connection import Connection, reset_on_close
from miniworker.ingress.counters import Counters
from miniworker.ingress.dialer import Attempt, Dialer
from miniworker.ingress.limits import Limits
from miniworker.ingress.poller import IN, Poller
from miniworker.ingress.proxy_header import proxy_header
from miniworker.ingress.rotation import Rotation
from miniworker.ingress.table import Port, PortKey

logger = logging.getLogger(__name__)

_ACCEPT_BATCH = 64
"""Accepted in one go, before the connections that are open get their turn."""

_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_Address = tuple[Any, ...]


class TcpPort:
    """One published tcp port. Connections go on after `close`, until one side ends them.

    With as many open as it may have it accepts no more until one ends: clients wait in the kernel's queue.
    """

    def __init__(
        self, key: PortKey, *, poller: Poller, dialer: Dialer, limits: Limits, counters: Counters
    ) -> None:
        self._key = key
        self._poller = poller
        self._dialer = dialer
        self._limits = limits
        self._counters = counters
        self._rotation = Rotation()
        self._proxy_protocol = False
        self._listeners: dict[socket.socket, Callable[[], None]] = {}
        self._attempts: dict[socket.socket, Attempt | None] = {}
        """By the client's socket; None while the first is being made."""
        self._connections: set[Connection] = set()
        self._paused = False

    async def open(self, sockets: list[socket.socket]) -> None:
        for item in sockets:
            self._listeners[item] = partial(self._accept, item)
            self._poller.watch(item, IN, self._listeners[item])

    def update(self, port: Port) -> None:
        self._rotation.update(port.backends, port.target_port, sticky=port.sticky)
        self._proxy_protocol = port.proxy_protocol

    @property
    def busy(self) -> bool:
        """Whether connections are open."""
        return bool(self._connections or self._attempts)

    def close(self) -> None:
        """Accept nothing more."""
        for item in self._listeners:
            self._poller.close_socket(item)
        self._listeners.clear()

    async def abort(self) -> None:
        """End the connections too."""
        self.close()
        for client, attempt in tuple(self._attempts.items()):
            if attempt is not None:
                self._dialer.cancel(attempt)
            self._give_up(client)
        for connection in tuple(self._connections):
            connection.reset()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPT_BATCH):
            if self._full():
                self._pause("A published port has as many connections as it may.")
                return
            try:
                client, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # it has ended again, or there is no descriptor
                if error.errno in _NO_MORE_FILES:
                    self._pause("A published port cannot accept for lack of files or memory.")
                return
            client.setblocking(False)
            self._serve(client, peer)

    def _full(self) -> bool:
        own = len(self._connections) + len(self._attempts)
        return self._limits.reached or own >= self._limits.per_port

    def _pause(self, why: str) -> None:
        if not self._paused:
            self._paused = True
            logger.warning(why, extra=fields(port=str(self._key), open=len(self._connections)))
            for item in self._listeners:
                self._poller.forget(item)
        self._limits.call_when_closed(self._resume)

    def _resume(self) -> None:
        if self._paused and self._full():
            self._limits.call_when_closed(self._resume)
        elif self._paused:
            self._paused = False
            for item, handler in self._listeners.items():
                self._poller.watch(item, IN, handler)

    def _serve(self, client: socket.socket, peer: _Address) -> None:
        self._counters.opened()
        self._limits.opened()
        self._attempts[client] = None
        attempt = self._dialer.dial(
            self._rotation.order(peer[0]),
            self._rotation.target_port,
            done=partial(self._dialed, client, peer),
        )
        if client in self._attempts:
            self._attempts[client] = attempt

    def _dialed(
        self,
        client: socket.socket,
        peer: _Address,
        backend: socket.socket | None,
        address: IPv4Address | None,
    ) -> None:
        if backend is None or address is None:
            self._give_up(client)
            return
        del self._attempts[client]
        self._rotation.took(peer[0], address)
        header = proxy_header(peer[:2], client.getsockname()[:2]) if self._proxy_protocol else b""
        connection = Connection(self._poller, client, backend, header=header, ended=self._ended)
        self._connections.add(connection)
        connection.start()

    def _give_up(self, client: socket.socket) -> None:
        del self._attempts[client]
        reset_on_close(client)
        client.close()
        self._closed()

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._closed()

    def _closed(self) -> None:
        self._counters.closed()
        self._limits.closed()
