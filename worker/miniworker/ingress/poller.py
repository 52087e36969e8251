"""One epoll for all sockets of the userspace path, which asyncio's loop watches as a single descriptor.

The loop spends several microseconds on each event of its own. Here a batch of events costs it one, so that most of
the time goes into receiving and sending.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

Handler = Callable[[], None]
"""Called when there may be something to do; it finds out what by trying, and tolerates that there is nothing."""

IN, OUT = select.EPOLLIN, select.EPOLLOUT

_BATCH = 256
"""Events before the loop has its turn: names are answered and tables applied in the same process."""


class Poller:
    """Level-triggered. Belongs to the running loop from `start` to `close`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def watch(self, item: socket.socket, events: int, handler: Handler) -> None:
        """Once more: other events, another handler."""
        descriptor = item.fileno()
        if descriptor in self._handlers:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def forget(self, item: socket.socket) -> None:
        """Watch it no more."""
        descriptor = item.fileno()
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close_socket(self, item: socket.socket) -> None:
        """Watch it no more and close it, with which the kernel forgets it by itself."""
        self._handlers.pop(item.fileno(), None)
        item.close()

    def _ready(self) -> None:
        handlers = self._handlers
        for descriptor, _ in self._epoll.poll(0, _BATCH):
            handler = handlers.get(descriptor)
            if handler is not None:  # one that came before it in the batch may have closed it
                handler()
