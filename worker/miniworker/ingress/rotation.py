"""Which task a connection goes to, over backends that may change between two choices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address

MAX_REMEMBERED = 65536
"""Clients of a sticky port; the one that has not come for longest makes place. The kernel path has the same limit."""


class Rotation:
    """Round robin: each call of `order` begins one further than the last. Sticky: a client begins where it was last.

    A sticky client that is new goes where its address and the tasks' say (rendezvous hashing), and stays there as long
    as that task serves, whoever else comes.
    """

    def __init__(
        self, backends: tuple[IPv4Address, ...] = (), target_port: int = 0, *, sticky: bool = False
    ) -> None:
        self._turn = 0
        self._remembered: OrderedDict[str, IPv4Address] = OrderedDict()
        self.update(backends, target_port, sticky=sticky)

    def update(self, backends: tuple[IPv4Address, ...], target_port: int, *, sticky: bool = False) -> None:
        self.backends = backends
        self.target_port = target_port
        self.sticky = sticky
        if not sticky:
            self._remembered.clear()

    def order(self, client: str) -> Iterator[IPv4Address]:
        """Every backend once: the one whose turn it is, then the others, for when it does not answer.

        One that is gone by the time it would be tried is left out: whoever removed it was told that it gets no more.
        """
        chosen = self._sticky_order(client) if self.sticky else self._in_turn()
        return (backend for backend in chosen if backend in self.backends)

    def took(self, client: str, backend: IPv4Address) -> None:
        """The backend has accepted the client."""
        if not self.sticky:
            return
        self._remembered[client] = backend
        self._remembered.move_to_end(client)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _in_turn(self) -> Sequence[IPv4Address]:
        if not self.backends:
            return ()
        first = self._turn % len(self.backends)
        self._turn += 1
        return self.backends[first:] + self.backends[:first]

    def _sticky_order(self, client: str) -> list[IPv4Address]:
        last = self._remembered.get(client)
        return sorted(self.backends, key=lambda item: (item != last, _weight(client, item)))


def _weight(client: str, backend: IPv4Address) -> bytes:
    return blake2b(client.encode() + backend.packed, digest_size=8).digest()
