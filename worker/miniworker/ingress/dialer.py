"""Connects to the first backend that answers, without waiting for any."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from minicommon.clock import SECOND, Clock
from minicommon.log import fields

from miniworker.ingress.poller import OUT, Poller
from miniworker.ingress.sockets import keep_alive

logger = logging.getLogger(__name__)

CONNECT_NS = 3 * SECOND
"""A task on the overlay answers in milliseconds; a node that has just died does not answer at all."""

_UNDER_WAY = frozenset({0, errno.EINPROGRESS})


class Dialer:
    """All attempts of this process."""

    def __init__(self, poller: Poller, *, clock: Clock) -> None:
        self._poller = poller
        self._clock = clock
        self._attempts: dict[Attempt, int] = {}
        """With the moment at which each is given up, the oldest first."""
        self._expiry: asyncio.Task[None] | None = None

    def dial(
        self,
        backends: Iterator[IPv4Address],
        port: int,
        *,
        done: Callable[[socket.socket | None, IPv4Address | None], None],
    ) -> Attempt:
        """Try one after the other; `done` gets the socket, watched for OUT, and its backend, or twice None."""
        attempt = Attempt(self, backends, port, done)
        self._next(attempt)
        return attempt

    async def close(self) -> None:
        """Give everything up; nobody is told."""
        for attempt in tuple(self._attempts):
            self.cancel(attempt)
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.wait({self._expiry})

    def cancel(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt, None)
        if attempt.sock is not None:
            self._poller.close_socket(attempt.sock)
            attempt.sock = None

    def _next(self, attempt: Attempt) -> None:
        for backend in attempt.backends:
            item = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            keep_alive(item)
            code = item.connect_ex((str(backend), attempt.port))
            if code in _UNDER_WAY:
                attempt.sock, attempt.backend = item, backend
                self._attempts[attempt] = self._clock.now_ns() + CONNECT_NS
                self._poller.watch(item, OUT, attempt.ready)
                self._expire_soon()
                return
            item.close()
            _log(attempt, backend, code)
        attempt.done(None, None)

    def settle(self, attempt: Attempt) -> None:
        """The socket of an attempt is connected, or has failed."""
        item = attempt.sock
        assert item is not None, "watched only while there is one"
        code = item.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(attempt, code)
            return
        del self._attempts[attempt]
        attempt.sock = None
        attempt.done(item, attempt.backend)

    def _failed(self, attempt: Attempt, code: int) -> None:
        self.cancel(attempt)
        _log(attempt, attempt.backend, code)
        self._next(attempt)

    def _expire_soon(self) -> None:
        if self._expiry is None or self._expiry.done():
            self._expiry = asyncio.create_task(self._expire(), name="connections that are not answered")

    async def _expire(self) -> None:
        while self._attempts:
            await self._clock.sleep_until(next(iter(self._attempts.values())))
            now_ns = self._clock.now_ns()
            for attempt in [item for item, until_ns in self._attempts.items() if until_ns <= now_ns]:
                self._failed(attempt, errno.ETIMEDOUT)


class Attempt:
    """One client's way to a backend."""

    __slots__ = ("_dialer", "backend", "backends", "done", "port", "sock")

    def __init__(
        self,
        dialer: Dialer,
        backends: Iterator[IPv4Address],
        port: int,
        done: Callable[[socket.socket | None, IPv4Address | None], None],
    ) -> None:
        self._dialer = dialer
        self.backends = backends
        self.port = port
        self.done = done
        self.sock: socket.socket | None = None
        self.backend: IPv4Address | None = None

    def ready(self) -> None:
        self._dialer.settle(self)


def _log(attempt: Attempt, backend: IPv4Address | None, code: int) -> None:
    logger.debug(
        "A task does not accept connections.",
        extra=fields(backend=f"{backend}:{attempt.port}", error=os.strerror(code)),
    )
