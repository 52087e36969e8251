"""Where a group of identical tasks goes, without placing them one by one.

Water-filling: placed one at a time, each task would go to the node that ranks lowest by (penalized, tasks of this
service, all tasks, row), and raise that node's two counts by one. So a node offers the ranks (p, s, t), (p, s+1, t+1),
... as often as it has room, always growing, and the group takes the lowest offers of all. Up to which value of s all
offers are taken is found by bisection over whole columns; only the last, partial layer has to be sorted.

Preferences are a tree: its branches are filled like that before the nodes in each, by what each branch holds in all.
Bin packing takes the nodes from the fullest on instead, each as far as it has room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimanager.decide.scheduler.nodes import Column, Mask, Share


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some nodes: their room, their tasks of this service and of all, their fullness if that is what counts."""

    room: Column
    service: Column
    tasks: Column
    fullness: Share | None

    def some(self, rows: Column) -> _Rows:
        fullness = None if self.fullness is None else self.fullness[rows]
        return _Rows(self.room[rows], self.service[rows], self.tasks[rows], fullness)


def spread(
    wanted: int,
    *,
    room: Column,
    service: Column,
    tasks: Column,
    penalized: Mask,
    levels: Sequence[Column] = (),
    fullness: Share | None = None,
) -> Column:
    """How many of `wanted` tasks each node gets; fewer in all when there is not room for all.

    `service` and `tasks` count what the nodes carry already, of this service and of all. Penalized nodes get only
    what the others have no room for. `levels` has for each preference, the outermost first, the number of each node's
    branch. With `fullness` (0 to 1) the fullest nodes are taken first.
    """
    room = np.minimum(room, wanted)
    first = _divide(wanted, _Rows(np.where(penalized, 0, room), service, tasks, fullness), levels)
    left = wanted - int(first.sum())
    if left == 0 or not penalized.any():
        return first
    rest = _Rows(np.where(penalized, room, 0), service + first, tasks + first, fullness)
    return first + _divide(left, rest, levels)


def order(placed: Column, service: Column, tasks: Column) -> list[int]:
    """The rows of the nodes that `spread` chose, in the order in which single tasks would have chosen them."""
    rows = np.repeat(np.arange(len(placed)), placed)
    starts = np.repeat(np.cumsum(placed) - placed, placed)
    nth = np.arange(len(rows)) - starts
    sequence: list[int] = rows[np.lexsort((rows, tasks[rows] + nth, service[rows] + nth))].tolist()
    return sequence


def _divide(wanted: int, rows: _Rows, levels: Sequence[Column]) -> Column:
    """Among the branches of the outermost level, then within each."""
    if not levels or not len(rows.room):
        return _pack(wanted, rows) if rows.fullness is not None else _fill(wanted, rows)
    branches = levels[0]
    shares = _fill(
        wanted,
        _Rows(_sums(branches, rows.room), _sums(branches, rows.service), _sums(branches, rows.tasks), None),
    )
    placed = np.zeros_like(rows.room)
    for branch in np.flatnonzero(shares).tolist():
        inside = np.flatnonzero(branches == branch)
        deeper = [level[inside] for level in levels[1:]]
        placed[inside] = _divide(int(shares[branch]), rows.some(inside), deeper)
    return placed


def _sums(branches: Column, column: Column) -> Column:
    """Of the values of each branch."""
    sums = np.zeros(int(branches.max()) + 1, dtype=np.int64)
    np.add.at(sums, branches, column)
    return sums


def _pack(wanted: int, rows: _Rows) -> Column:
    """From the fullest node on; of nodes as full, first the one with more tasks."""
    assert rows.fullness is not None
    ranks = np.lexsort((np.arange(len(rows.room)), -rows.tasks, -rows.fullness))
    room = rows.room[ranks]
    before = np.cumsum(room) - room
    placed = np.zeros_like(rows.room)
    placed[ranks] = np.clip(wanted - before, 0, room)
    return placed


def _fill(wanted: int, rows: _Rows) -> Column:
    room, service, tasks = rows.room, rows.service, rows.tasks
    if wanted == 0 or int(room.sum()) <= wanted:
        return room if wanted else np.zeros_like(room)
    level = _level(wanted, room, service)
    placed = np.clip(level - service, 0, room)
    open_rows = np.flatnonzero((service <= level) & (placed < room))
    ranks = np.lexsort((open_rows, tasks[open_rows] + placed[open_rows]))
    placed[open_rows[ranks[: wanted - int(placed.sum())]]] += 1
    return placed


def _level(wanted: int, room: Column, service: Column) -> int:
    """The highest level below which all offers together are no more than `wanted`."""
    low, high = int(service.min()), int(service.max()) + wanted + 1
    while high - low > 1:
        middle = (low + high) // 2
        if int(np.clip(middle - service, 0, room).sum()) <= wanted:
            low = middle
        else:
            high = middle
    return low
