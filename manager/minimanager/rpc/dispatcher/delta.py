"""What changed between two sets of assignments, in an order that a node may apply from first to last.

A set maps a key ("network/<id>", "endpoint/<network>/<address>", "port/tcp/80",
"secret/<id>/<version>", "config/<id>", "task/<id>") to an immutable item.
What a task needs comes before the task; removals come last, and a task goes before what it needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_ORDER = ("network", "peer", "endpoint", "service", "port", "secret", "config", "task", "kept")
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class Delta(Generic[T]):
    """Items that are new or different, by key, and the keys that are gone."""

    upserts: Mapping[str, T]
    removals: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals)

    def then(self, later: Delta[T]) -> Delta[T]:
        """This change followed by `later`, as one."""
        upserts = {key: item for key, item in self.upserts.items() if key not in later.removals}
        upserts.update(later.upserts)
        removals = (self.removals | later.removals) - later.upserts.keys()
        return Delta(upserts, removals)

    def without(self, key: str) -> Delta[T]:
        """This change without what it does to one item."""
        if key not in self.upserts and key not in self.removals:
            return self
        upserts = {other: item for other, item in self.upserts.items() if other != key}
        return Delta(upserts, self.removals - {key})

    def ordered_upserts(self) -> list[tuple[str, T]]:
        """Networks first, then who is on them and what leads there, then tasks; each kind in key order."""
        return sorted(self.upserts.items(), key=lambda pair: _position(pair[0]))

    def ordered_removals(self) -> list[str]:
        """Tasks first, then what they needed."""
        return sorted(self.removals, key=lambda key: (-_position(key)[0], key))


def difference(old: Mapping[str, T], new: Mapping[str, T]) -> Delta[T]:
    """What turns `old` into `new`. Items are compared by identity first: unchanged ones cost nothing."""
    if old is new:
        return Delta({})
    upserts = {key: item for key, item in new.items() if _differs(old.get(key), item)}
    return Delta(upserts, frozenset(key for key in old if key not in new))


def merged(deltas: Iterable[Delta[T]]) -> Delta[T]:
    """Several changes, one after the other, as one."""
    total: Delta[T] = Delta({})
    for delta in deltas:
        total = total.then(delta)
    return total


def _differs(old: T | None, new: T) -> bool:
    return old is not new and old != new


def _position(key: str) -> tuple[int, str]:
    kind, _, _ = key.partition("/")
    return _RANK[kind], key
