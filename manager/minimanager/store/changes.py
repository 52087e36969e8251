"""Following the cache: change sets that a slow reader gets collapsed, never a queue that grows.

What has not been read yet is kept as one change per object, from what the reader last saw to what is now. So a
subscription holds at most as much as there are objects, however far behind its reader is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from minimanager.domain.objects import Object
from minimanager.store.keys import Kind


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after; None: it does not exist."""

    kind: Kind
    id: str
    old: Object | None
    new: Object | None


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Everything that changed since the last one, up to `revision`; at most one change per object."""

    revision: int
    changes: tuple[Change, ...]


class Subscription:
    """An async iterator of change sets, for one reader."""

    def __init__(self, revision: int, on_close: Callable[[Subscription], None]) -> None:
        self.revision = revision
        """Up to where the reader has been told."""
        self._on_close = on_close
        self._pending: dict[tuple[Kind, str], Change] = {}
        self._upto = revision
        self._wake = asyncio.Event()
        self._closed = False

    def add(self, revision: int, changes: Iterable[Change]) -> None:
        """For the cache: fold the changes into what is pending."""
        for change in changes:
            key = (change.kind, change.id)
            earlier = self._pending.pop(key, None)
            old = change.old if earlier is None else earlier.old
            if old is not None or change.new is not None:
                self._pending[key] = Change(change.kind, change.id, old, change.new)
        self._upto = revision
        if self._pending:
            self._wake.set()

    async def next(self) -> ChangeSet:
        """Wait for changes, and take all there are. Raises StopAsyncIteration once closed."""
        while not self._pending and not self._closed:
            self._wake.clear()
            await self._wake.wait()
        if self._closed:
            raise StopAsyncIteration
        return self._take()

    def poll(self) -> ChangeSet | None:
        """What is pending now, without waiting; None: nothing."""
        return self._take() if self._pending else None

    def close(self) -> None:
        """End the iteration and forget what is pending."""
        self._closed = True
        self._pending.clear()
        self._wake.set()
        self._on_close(self)

    def _take(self) -> ChangeSet:
        changes = tuple(self._pending.values())
        self._pending.clear()
        self.revision = self._upto
        return ChangeSet(self.revision, changes)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> ChangeSet:
        return await self.next()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
