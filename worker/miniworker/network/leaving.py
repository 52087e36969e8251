"""Removes interfaces of the host's namespace, those of several tasks at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from miniworker.network.sandboxes import remove_links


class LeavingLinks:
    """The kernel takes about as long to remove one interface as to remove many: who waits is taken along."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._removing = asyncio.Lock()

    async def remove(self, names: Iterable[str]) -> None:
        """Return when the interfaces are gone. Not there: nothing. Raises NetworkError."""
        own = frozenset(names)
        self._names |= own
        async with self._removing:
            if own.isdisjoint(self._names):
                return  # taken along
            batch = frozenset(self._names)
            await asyncio.to_thread(remove_links, batch)
            self._names -= batch
