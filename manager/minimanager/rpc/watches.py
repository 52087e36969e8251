"""Streams that tell of a state again whenever it has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from minicommon.errors import UnavailableError

from minimanager.store.cache import Cache, Subscription
from minimanager.store.keys import Kind


class Watches:
    """All that are open on one servicer, so that a manager which stops can end them."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._open: set[Subscription] = set()

    def close(self) -> None:
        """The manager stops: whoever watches is told to ask another."""
        for each in tuple(self._open):
            each.close()

    @contextmanager
    def open(self) -> Iterator[Subscription]:
        """What changes from now on."""
        with self._cache.subscribe() as changes:
            self._open.add(changes)
            try:
                yield changes
            finally:
                self._open.discard(changes)


async def change_of(kinds: Collection[Kind], changes: Subscription) -> None:
    """Return once an object of these kinds has changed. Raises UnavailableError when the manager stops."""
    async for change_set in changes:
        if any(change.kind in kinds for change in change_set.changes):
            return
    raise UnavailableError("the manager is stopping")
