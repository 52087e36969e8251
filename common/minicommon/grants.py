"""What a container may have of its node only where the node's owner allows it (`mini-worker --allow`).

Who decides twice asks once: the scheduler, which passes over nodes that do not allow it, and the node itself, which
has the last word.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Final, Protocol

GRANTS: Final = ("device", "pid-host", "privileged", "seccomp-unconfined")
"""What `mini-worker --allow` takes."""


class Wanting(Protocol):
    """What of a container's specification asks for a grant; the message and the manager's value both have it."""

    @property
    def devices(self) -> Sized: ...
    @property
    def host_pid(self) -> bool: ...
    @property
    def privileged(self) -> bool: ...
    @property
    def seccomp_unconfined(self) -> bool: ...


def required(container: Wanting) -> tuple[str, ...]:
    """The grants that the container needs, in the order of GRANTS."""
    asks = (bool(container.devices), container.host_pid, container.privileged, container.seccomp_unconfined)
    return tuple(grant for grant, asked in zip(GRANTS, asks, strict=True) if asked)
