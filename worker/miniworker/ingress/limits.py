"""How many connections this process may carry: each takes two file descriptors."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

from minicommon.log import fields

logger = logging.getLogger(__name__)

WANTED_DESCRIPTORS = 1 << 20
"""Half a million connections; Linux' own maximum for a process (fs.nr_open) unless that was changed."""

RESERVED_SHARE = 8
"""One in so many descriptors is not for connections: udp flows, listeners, the agent."""

PORT_SHARE = 0.8
"""Of all connections, what one port may have, so that the others always get some."""


@dataclass(slots=True)
class Limits:
    """Connections of all ports together; a port that may not accept asks to be called when it may."""

    maximum: int
    open: int = 0
    _waiting: list[Callable[[], None]] = field(default_factory=list)

    @property
    def per_port(self) -> int:
        return max(1, int(self.maximum * PORT_SHARE))

    @property
    def reached(self) -> bool:
        return self.open >= self.maximum

    def opened(self) -> None:
        self.open += 1

    def closed(self) -> None:
        self.open -= 1
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def call_when_closed(self, resume: Callable[[], None]) -> None:
        """Once, after the next connection has ended."""
        if resume not in self._waiting:
            self._waiting.append(resume)


def raise_descriptor_limit() -> int:
    """Raise this process' limit as far as it may; the limit. The hard one can only be raised with CAP_SYS_RESOURCE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < WANTED_DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED_DESCRIPTORS, WANTED_DESCRIPTORS))
            return WANTED_DESCRIPTORS
        except (ValueError, OSError):
            logger.info(
                "The limit of open files cannot be raised; it is what this machine allows.",
                extra=fields(limit=hard, wanted=WANTED_DESCRIPTORS),
            )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connection_limits(descriptors: int) -> Limits:
    """For so many descriptors."""
    return Limits(maximum=max(1, (descriptors - descriptors // RESERVED_SHARE) // 2))
