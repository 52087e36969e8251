"""The generic resources of the nodes: how many are left, and which ones a task gets.

A node has a resource by number ("SSD=3") or by name ("GPU=UUID1,UUID2"). Names are given to one task at a time, until
it has ended (swarmkit `api/genericresource`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minimanager.domain.objects import GenericResource

_Column = NDArray[np.int64]


@dataclass(slots=True)
class Stock:
    """A column per kind, with a row per node."""

    size: int
    """Of the columns."""
    _total: dict[str, _Column] = field(default_factory=dict)
    _free: dict[str, _Column] = field(default_factory=dict)
    _names: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    """The free ones of a named resource."""

    def total(self, kind: str) -> _Column:
        return self._column(self._total, kind)

    def free(self, kind: str) -> _Column:
        return self._column(self._free, kind)

    def _column(self, columns: dict[str, _Column], kind: str) -> _Column:
        found = columns.get(kind)
        if found is None:
            found = columns[kind] = np.zeros(self.size, dtype=np.int64)
        return found

    def add(self, row: int, resources: Iterable[GenericResource]) -> None:
        """What the node has in all."""
        for each in resources:
            self.total(each.kind)[row] += each.amount
            self.free(each.kind)[row] += each.amount
            if each.ids:
                self._names.setdefault((row, each.kind), []).extend(each.ids)

    def hold(self, row: int, resources: Iterable[GenericResource]) -> None:
        """Count what a task of the node has already."""
        for each in resources:
            names = self._names.get((row, each.kind))
            if names is None or not each.ids:
                self.free(each.kind)[row] -= each.amount
                continue
            for name in set(each.ids) & set(names):
                names.remove(name)
                self.free(each.kind)[row] -= 1

    def place(self, placed: _Column, reserved: Iterable[GenericResource]) -> None:
        """Count new tasks that all reserve the same: so many on each node. `take` says what each gets."""
        for each in reserved:
            self._column(self._free, each.kind)[:] -= placed * each.count

    def take(self, row: int, reserved: Iterable[GenericResource]) -> tuple[GenericResource, ...]:
        """What a task that has been counted gets of its node."""
        return tuple(self._taken(row, each) for each in reserved)

    def _taken(self, row: int, reserved: GenericResource) -> GenericResource:
        names = self._names.get((row, reserved.kind))
        if names is None:
            return GenericResource(reserved.kind, count=reserved.count)
        ids = tuple(names[: reserved.count])
        del names[: reserved.count]
        return GenericResource(reserved.kind, ids)
