"""What group commit gains: transactions one by one against grouped, on one real etcd, in one run.

    python -m bench.store [COUNT]

Prints the median of the rounds for each way and their ratio. Both ways write the same objects through the same
`Writer`; only how many callers wait at the same time differs.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from minicommon.ids import new_id
from minimanager.domain.objects import ContainerSpec, Task, TaskSpec, TaskState
from minimanager.store.cache import Cache
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys
from minimanager.store.transaction import Transaction
from minimanager.store.writer import Writer
from support.etcd import connected, running_etcd

ROUNDS = 3
DEFAULT_COUNT = 500

_numbers = itertools.count(1)


def task() -> Task:
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


def create(writer: Writer) -> Transaction:
    return writer.begin().create(task())


async def one_by_one(writer: Writer, count: int) -> None:
    for _ in range(count):
        await writer.commit(create(writer))


async def many_callers(writer: Writer, count: int) -> None:
    await asyncio.gather(*(writer.commit(create(writer)) for _ in range(count)))


async def rate(work: Callable[[Writer, int], Awaitable[None]], writer: Writer, count: int) -> float:
    """Objects per second."""
    started = time.perf_counter()
    await work(writer, count)
    return count / (time.perf_counter() - started)


async def compare(store: EtcdStore, count: int) -> None:
    writer = Writer(store, Keys("bench"))
    single, grouped = [], []
    for _ in range(ROUNDS):
        single.append(await rate(one_by_one, writer, count))
        grouped.append(await rate(many_callers, writer, 20 * count))
    slow, fast = statistics.median(single), statistics.median(grouped)
    print(f"one by one      {slow:9,.0f} objects/s   ({count} objects)")
    print(f"grouped         {fast:9,.0f} objects/s   ({20 * count} objects)")
    print(f"ratio           {fast / slow:9.1f}")


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


async def main() -> None:
    """Print objects per second for each way, and the ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_COUNT
    with tempfile.TemporaryDirectory(prefix="bench-store-") as directory:
        async with running_etcd(Path(directory)) as etcd, connected(etcd) as store:
            await compare(store, count)
            await first_list(store)


if __name__ == "__main__":
    asyncio.run(main())
