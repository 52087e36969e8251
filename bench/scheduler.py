"""Place 100,000 tasks on 1,000 nodes in memory, whole groups at a time, and one by one with a heap.

Both place the same tasks in the same order and must give every node the same number of tasks of every service; what is
compared is the placing alone. All decisions together (tasks made, placed, and in the end found complete)
are timed beside it.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from minimanager.decide.actions import CreateTask
from minimanager.decide.reconcile import everything, reconcile
from minimanager.decide.scheduler.nodes import Column
from minimanager.decide.scheduler.spread import order, spread
from minimanager.domain.objects import (
    Node,
    NodeDescription,
    NodeResources,
    NodeState,
    NodeStatus,
    ResourceReservations,
    Resources,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
)
from minimanager.domain.snapshot import Snapshot

NODES, SERVICES, REPLICAS = 1_000, 100, 1_000
NANO_CPUS = 10_000_000
"""Reserved by each task; each node has room for 200 of them."""
ROUNDS = 3
"""The best counts: the others are what else the machine did."""


@dataclass(frozen=True, slots=True)
class Load:
    """The nodes as they are before: uneven, so that there is something to level."""

    room: Column
    tasks: Column


def load() -> Load:
    generator = np.random.default_rng(seed=1)
    return Load(np.full(NODES, 200, dtype=np.int64), generator.integers(0, 20, NODES))


def by_groups(start: Load) -> Column:
    """Placements per service and node, by water-filling."""
    room, tasks = start.room.copy(), start.tasks.copy()
    none, free = np.zeros(NODES, dtype=np.int64), np.zeros(NODES, dtype=np.bool_)
    result = np.zeros((SERVICES, NODES), dtype=np.int64)
    for service in range(SERVICES):
        placed = spread(REPLICAS, room=room, service=none, tasks=tasks, penalized=free)
        assert len(order(placed, none, tasks)) == REPLICAS
        room -= placed
        tasks += placed
        result[service] = placed
    return result


def one_by_one(start: Load) -> Column:
    """The same with a heap of nodes: take the best, place a task, put the node back."""
    room, tasks = start.room.tolist(), start.tasks.tolist()
    result = np.zeros((SERVICES, NODES), dtype=np.int64)
    for service in range(SERVICES):
        heap = [(0, tasks[row], row) for row in range(NODES) if room[row] > 0]
        heapq.heapify(heap)
        placed = [0] * NODES
        for _ in range(REPLICAS):
            of_service, of_all, row = heap[0]
            placed[row] += 1
            room[row] -= 1
            tasks[row] += 1
            if room[row] > 0:
                heapq.heapreplace(heap, (of_service + 1, of_all + 1, row))
            else:
                heapq.heappop(heap)
        result[service] = placed
    return result


def whole_decision() -> int:
    """Pass after pass over all services, from nothing until none has anything to do; how many tasks came out."""
    ids = itertools.count()
    statuses = {
        f"node-{number:04}": NodeStatus(
            f"node-{number:04}",
            state=NodeState.READY,
            description=NodeDescription(resources=NodeResources(200 * NANO_CPUS, 1 << 34)),
        )
        for number in range(NODES)
    }
    task = TaskSpec(resources=Resources(reservations=ResourceReservations(NANO_CPUS)))
    services = {
        f"service-{number:03}": Service(
            f"service-{number:03}", spec=ServiceSpec(name=f"s{number}", replicas=REPLICAS, task=task)
        )
        for number in range(SERVICES)
    }
    tasks: dict[str, dict[str, Task]] = {}
    by_node: dict[str, dict[str, Task]] = {}
    while True:
        snapshot = Snapshot(
            nodes={node_id: Node(node_id) for node_id in statuses},
            node_statuses=statuses,
            services=services,
            tasks_by_service=tasks,
            tasks_by_node=by_node,
        )
        decision = reconcile(snapshot, everything(snapshot), 1, lambda: f"task-{next(ids)}")
        if not decision.actions:
            return sum(map(len, tasks.values()))
        for action in decision.actions:
            assert isinstance(action, CreateTask)
            tasks.setdefault(action.task.service_id, {})[action.task.id] = action.task
            by_node.setdefault(action.task.node_id, {})[action.task.id] = action.task


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of ROUNDS."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    start = load()
    assert (by_groups(start) == one_by_one(start)).all()
    groups, heap = best(lambda: by_groups(start)), best(lambda: one_by_one(start))
    total = SERVICES * REPLICAS
    print(f"placing {total:,} tasks on {NODES:,} nodes")
    print(f"  by groups          {groups * 1000:8.1f} ms")
    print(f"  one by one, a heap {heap * 1000:8.1f} ms   {heap / groups:.1f} times as long")
    whole = best(whole_decision)
    print(f"all decisions        {whole * 1000:8.1f} ms   {total / whole:,.0f} tasks/s")


if __name__ == "__main__":
    main()
