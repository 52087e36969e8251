"""Round robin over backends that may change between two choices."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address


class Rotation:
    """Each call of `order` begins one further than the last."""

    def __init__(self, backends: tuple[IPv4Address, ...] = (), target_port: int = 0) -> None:
        self.backends = backends
        self.target_port = target_port
        self._turn = 0

    def update(self, backends: tuple[IPv4Address, ...], target_port: int) -> None:
        self.backends = backends
        self.target_port = target_port

    def order(self) -> Iterator[tuple[str, int]]:
        """Every backend once: the one whose turn it is, then the others, for when it does not answer."""
        backends, port = self.backends, self.target_port
        start = self._turn
        self._turn += 1
        for offset in range(len(backends)):
            yield str(backends[(start + offset) % len(backends)]), port
