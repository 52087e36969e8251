"""What group commit gains: transactions one by one against grouped, on one real etcd, in one run.

    python -m bench.store [COUNT]

Prints the median of the rounds for each way and the ratio to the first. All ways write like objects through the same
`Writer`; only how many wait at the same time differs. Then it fills a watch cache with all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from minicommon.ids import new_id
from minimanager.domain.objects import ContainerSpec, Task, TaskSpec, TaskState
from minimanager.store.cache import Cache
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys
from minimanager.store.writer import Writer
from support.etcd import connected, running_etcd

ROUNDS = 3
DEFAULT_COUNT = 500

_numbers = itertools.count(1)


def make_task() -> Task:
    """A task as the control loops write it."""
    spec = TaskSpec(
        container=ContainerSpec(image="registry.example.com/team/web:1.2.3", env=("MODE=production",))
    )
    return Task(
        new_id(),
        service_id=new_id(),
        service_name="web",
        slot=next(_numbers),
        spec=spec,
        state=TaskState.ASSIGNED,
    )


async def one_by_one(writer: Writer, tasks: Sequence[Task]) -> None:
    for task in tasks:
        await writer.commit(writer.begin().create(task))


async def many_callers(writer: Writer, tasks: Sequence[Task]) -> None:
    await asyncio.gather(*(writer.commit(writer.begin().create(task)) for task in tasks))


async def decision(writer: Writer, tasks: Sequence[Task]) -> None:
    await writer.commit_all([writer.begin().create(task) for task in tasks])


async def rate(
    work: Callable[[Writer, Sequence[Task]], Awaitable[None]], writer: Writer, count: int
) -> float:
    """Objects per second; making them is not part of it."""
    tasks = [make_task() for _ in range(count)]
    started = time.perf_counter()
    await work(writer, tasks)
    return count / (time.perf_counter() - started)


async def compare(store: EtcdStore, count: int) -> None:
    writer = Writer(store, Keys("bench"))
    ways = (
        ("one by one", one_by_one, count),
        ("many callers", many_callers, 20 * count),
        ("a decision", decision, 20 * count),
    )
    rates: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for _ in range(ROUNDS):
        for name, work, size in ways:
            rates[name].append(await rate(work, writer, size))
    slow = statistics.median(rates["one by one"])
    for name, _, size in ways:
        median = statistics.median(rates[name])
        print(f"{name:15} {median:9,.0f} objects/s   ratio {median / slow:6.1f}   ({size} objects)")


async def first_list(store: EtcdStore) -> None:
    """How long a manager that starts reads what is there."""
    cache = Cache(store, Keys("bench"))
    started = time.perf_counter()
    following = asyncio.create_task(cache.run())
    await cache.wait_synced()
    took = time.perf_counter() - started
    count = len(cache.snapshot().tasks)
    print(f"cache filled    {count / took:9,.0f} objects/s   ({count} objects in {took:.2f} s)")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def measure() -> None:
    """Print objects per second for each way, and the ratio."""
    count = DEFAULT_COUNT
    with tempfile.TemporaryDirectory(prefix="bench-store-") as directory:
        async with running_etcd(Path(directory)) as etcd, connected(etcd) as store:
            await compare(store, count)
            await first_list(store)


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
