"""How often a client may call, and how many of its calls may be open: none may take a server from the others.

A token bucket per client, which one that calls seldom finds full. The numbers are far above what `minictl` and nodes
do; they are reached by a program that polls where it could watch, or that opens streams and never reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from minicommon.clock import SECOND
from minicommon.errors import ResourceExhaustedError
from minicommon.log import fields

logger = logging.getLogger(__name__)

MOST_CLIENTS = 10_000
"""Clients that are remembered; those whose bucket is full again and who have nothing open are forgotten first."""


class TooManyCallsError(ResourceExhaustedError):
    """A client calls too often, or has too many calls open. Not recorded call by call: that would be the flood."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Of one client."""

    per_second: int = 500
    """Calls in the long run. On one core a manager answers about 800 lists of nodes a second to a client there."""
    burst: int = 2000
    """Calls at once, after a pause."""
    open: int = 1000
    """Calls and streams at the same time; a node that serves logs of all its tasks has a few hundred."""


@dataclass(slots=True)
class _Client:
    tokens: float
    at_ns: int
    open: int = 0
    told_at_ns: int | None = None


class Limiter:
    """The buckets of one server. `now_ns` is a monotonic clock."""

    def __init__(self, limits: CallLimits, now_ns: Callable[[], int]) -> None:
        self._limits = limits
        self._now_ns = now_ns
        self._clients: dict[str, _Client] = {}

    @contextmanager
    def admitted(self, name: str) -> Iterator[None]:
        """While a call of this client runs. Raises TooManyCallsError, which says what is allowed and what to do."""
        client = self._client(name)
        limits = self._limits
        if client.tokens < 1:
            wait = (1 - client.tokens) / limits.per_second
            self._tell(name, client)
            raise TooManyCallsError(
                f"{name} calls too often: at most {limits.per_second} calls a second are answered, {limits.burst} "
                f"after a pause; try again in {max(wait, 0.001):.3f} s, and watch instead of asking again and again"
            )
        if client.open >= limits.open:
            self._tell(name, client)
            raise TooManyCallsError(
                f"{name} has {client.open} calls open, and at most {limits.open} are allowed; end streams that "
                "are not read any more"
            )
        client.tokens -= 1
        client.open += 1
        try:
            yield
        finally:
            client.open -= 1

    def _client(self, name: str) -> _Client:
        now_ns, limits = self._now_ns(), self._limits
        client = self._clients.get(name)
        if client is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._forget(now_ns)
            client = self._clients[name] = _Client(limits.burst, now_ns)
        gained = (now_ns - client.at_ns) * limits.per_second / SECOND
        client.tokens, client.at_ns = min(limits.burst, client.tokens + gained), now_ns
        return client

    def _forget(self, now_ns: int) -> None:
        full_after_ns = self._limits.burst * SECOND // self._limits.per_second
        self._clients = {
            name: client
            for name, client in self._clients.items()
            if client.open or now_ns - client.at_ns < full_after_ns
        }

    def _tell(self, name: str, client: _Client) -> None:
        """In the log, at most every ten seconds for each client."""
        now_ns = self._now_ns()
        if client.told_at_ns is None or now_ns - client.told_at_ns >= 10 * SECOND:
            client.told_at_ns = now_ns
            logger.warning("A client calls too often and is refused.", extra=fields(caller=name))
