"""Water-filling: where a group of identical tasks goes, without placing them one by one.

Placed one at a time, each task would go to the node that ranks lowest by (penalized, tasks of this service, all tasks,
row), and raise that node's two counts by one. So a node offers the ranks (p, s, t), (p, s+1, t+1), ... as often as it
has room, always growing, and the group takes the lowest offers of all. Up to which value of s all offers are taken is
found by bisection over whole columns; only the last, partial layer has to be sorted.
"""

from __future__ import annotations

import numpy as np

from minimanager.decide.scheduler.nodes import Column, Mask


def spread(wanted: int, *, room: Column, service: Column, tasks: Column, penalized: Mask) -> Column:
    """How many of `wanted` tasks each node gets; fewer in all when there is not room for all.

    `service` and `tasks` count what the nodes carry already, of this service and of all. Penalized nodes get only
    what the others have no room for.
    """
    room = np.minimum(room, wanted)
    first = _fill(wanted, np.where(penalized, 0, room), service, tasks)
    left = wanted - int(first.sum())
    if left == 0 or not penalized.any():
        return first
    return first + _fill(left, np.where(penalized, room, 0), service, tasks)


def order(placed: Column, service: Column, tasks: Column) -> list[int]:
    """The rows of the nodes that `spread` chose, in the order in which single tasks would have chosen them."""
    rows = np.repeat(np.arange(len(placed)), placed)
    starts = np.repeat(np.cumsum(placed) - placed, placed)
    nth = np.arange(len(rows)) - starts
    sequence: list[int] = rows[np.lexsort((rows, tasks[rows] + nth, service[rows] + nth))].tolist()
    return sequence


def _fill(wanted: int, room: Column, service: Column, tasks: Column) -> Column:
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
