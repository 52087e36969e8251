"""What only a real etcd can do wrong: die, freeze, refuse a certificate; and what of it reaches us."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from minicommon.clock import SystemClock
from minicommon.errors import InvalidArgumentError, UnavailableError
from minicommon.settings import EtcdSettings
from minimanager.control.leader import Election
from minimanager.domain.objects import Node, Service, ServiceSpec
from minimanager.store.api import Compare, EventBatch, Limits, Put, TooLargeError
from minimanager.store.cache import Cache
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys, Kind
from minimanager.store.transaction import FencedError
from minimanager.store.writer import Writer
from support.etcd import EtcdProcess, connected, make_pki, running_etcd
from support.ports import free_port

KEYS = Keys("c1")


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    async with running_etcd(tmp_path / "etcd") as process:
        yield process


@contextlib.asynccontextmanager
async def following(store: EtcdStore) -> AsyncIterator[Cache]:
    cache = Cache(store, KEYS)
    task = asyncio.create_task(cache.run())
    await cache.wait_synced()
    yield cache
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_goes_on_over_a_restart_without_a_gap(etcd: EtcdProcess) -> None:
    async with connected(etcd, request_timeout=30) as store, following(store) as cache:
        writer = Writer(store, KEYS)
        with cache.subscribe() as changes:
            await writer.commit(writer.begin().create(Node("before")))
            assert [change.id for change in (await changes.next()).changes] == ["before"]
            await etcd.restart()
            async with connected(etcd) as other:
                elsewhere = Writer(other, KEYS)
                await elsewhere.commit(elsewhere.begin().create(Node("after")))
            assert [change.id for change in (await changes.next()).changes] == ["after"]
        assert set(cache.snapshot().nodes) == {"before", "after"}


async def test_a_transaction_that_a_restart_cuts_off_is_done_whole_or_not_at_all(etcd: EtcdProcess) -> None:
    async with connected(etcd) as store:
        writer = Writer(store, KEYS)
        body = "x" * 100_000

        def create(number: int) -> list[Service]:
            return [Service(f"{number}-{part}", spec=ServiceSpec(name=body)) for part in "ab"]

        async def write(number: int) -> None:
            transaction = writer.begin()
            for service in create(number):
                transaction.create(service)
            await writer.commit(transaction)

        writes = [asyncio.create_task(write(number)) for number in range(60)]
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
        etcd.kill()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, UnavailableError) for outcome in outcomes)
        assert any(outcome is not None for outcome in outcomes)
        await etcd.start()
        there = {item.key for item in (await store.list(KEYS.prefix)).items}
        for number, outcome in enumerate(outcomes):
            pair = [KEYS.of(service) in there for service in create(number)]
            assert pair in ([True, True], [False, False])
            assert outcome is not None or pair == [True, True], "what was acknowledged is kept"


async def test_an_etcd_that_does_not_answer_is_unavailable_at_the_deadline(etcd: EtcdProcess) -> None:
    async with connected(etcd, request_timeout=0.5) as store:
        await store.txn([], [Put("/a", b"1")])
        etcd.freeze()
        with pytest.raises(UnavailableError, match=rf"transaction: {etcd.url} did not answer within 0\.5 s"):
            await store.txn([], [Put("/a", b"2")])
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.5 s"):
            await store.get("/a")
        etcd.thaw()
        await etcd.answering()
        assert await store.get("/a") is not None


async def test_no_etcd_at_all_is_unavailable_and_says_where_it_looked() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    store = EtcdStore(EtcdSettings((url,)), request_timeout=0.2)
    with pytest.raises(UnavailableError, match=rf"no etcd member could be reached within 0\.2 s: {url}"):
        await store.txn([], [Put("/a", b"1")])
    await store.close()


async def test_another_endpoint_takes_over(etcd: EtcdProcess) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    store = EtcdStore(EtcdSettings((dead, etcd.url)))
    await store.txn([], [Put("/a", b"1")])
    assert await store.get("/a") is not None
    assert (await store.status()).endpoints == (dead, etcd.url)
    await store.close()


async def test_a_member_that_hangs_leaves_time_for_another(etcd: EtcdProcess, tmp_path: Path) -> None:
    second = EtcdProcess(tmp_path / "second")
    store = EtcdStore(EtcdSettings((second.url, etcd.url)), request_timeout=4)
    assert await store.get("/where") is None  # from the first, the only one that runs
    await second.start()
    try:
        async with connected(second) as direct:
            await direct.txn([], [Put("/where", b"second")])
        etcd.freeze()
        found = [await store.get("/where") for _ in range(5)]
        assert all(item is not None and item.value == b"second" for item in found)
        await store.txn([], [Put("/there", b"1")])
    finally:
        await store.close()
        second.kill()


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:2379", "ftp://127.0.0.1:2379", "https://127.0.0.1", "https://:1"]
)
async def test_an_endpoint_must_be_a_url(endpoint: str) -> None:
    with pytest.raises(InvalidArgumentError, match="etcd endpoint: must be http"):
        EtcdStore(EtcdSettings((endpoint,)))


async def test_at_least_one_endpoint() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one"):
        EtcdStore(EtcdSettings(()))


async def test_an_external_etcd_with_lower_limits_refuses_clearly(etcd: EtcdProcess) -> None:
    """Our settings promise more than the member allows."""
    settings = EtcdSettings((etcd.url,), max_txn_ops=100_000, max_request_bytes=64 * 1024 * 1024)
    store = EtcdStore(settings)
    assert store.limits == Limits(100_000, 64 * 1024 * 1024)
    with pytest.raises(TooLargeError, match="refused by etcd, whose limits are lower than ours"):
        await store.txn([], [Put(f"/{number}", b"") for number in range(5_000)])
    with pytest.raises(TooLargeError, match="refused by etcd"):
        await store.txn([], [Put("/a", bytes(9 * 1024 * 1024))])
    await store.close()


class Gated(EtcdStore):
    """Watches begin when the gate is open: a manager whose network was down for a while."""

    gate: asyncio.Event

    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        await self.gate.wait()
        async for batch in super().watch(prefix, after=after):
            yield batch


async def test_a_cache_that_fell_behind_a_compaction_lists_again(etcd: EtcdProcess) -> None:
    async with connected(etcd) as other:
        writer = Writer(other, KEYS)
        await writer.commit(writer.begin().create(Node("old")).create(Node("stays")))
        store = Gated(etcd.settings)
        store.gate = asyncio.Event()
        async with following(store) as cache:
            with cache.subscribe() as changes:
                await writer.commit(writer.begin().delete(cache.snapshot().nodes["old"]))
                last = await writer.commit(writer.begin().create(Node("new")))
                await other.compact(last)
                store.gate.set()
                await cache.wait_for(last)
                found = changes.poll()
            assert found is not None
            assert {change.id: change.new is not None for change in found.changes} == {
                "old": False,
                "new": True,
            }
            assert set(cache.snapshot().nodes) == {"stays", "new"}
        await store.close()


async def test_a_lease_ends_by_itself(etcd: EtcdProcess) -> None:
    async with connected(etcd) as store:
        lease = await store.grant_lease(2)
        revision = (await store.txn([Compare("/leader", 0)], [Put("/leader", b"me", lease)])).revision
        async for batch in store.watch("/leader", after=revision):
            assert [event.value for event in batch.events] == [None]
            break
        assert not await store.renew_lease(lease)


async def test_etcd_opens_for_a_certificate_of_its_own_ca_only(tmp_path: Path) -> None:
    own, stranger = make_pki(tmp_path / "own"), make_pki(tmp_path / "stranger")
    async with running_etcd(tmp_path / "etcd", pki=own) as etcd:
        async with connected(etcd) as store:
            await store.txn([], [Put(KEYS.name(Kind.NODE, "a"), b"1")])
        for settings in (
            etcd.settings_with(stranger, ca=own.ca),  # trusts the server, is not trusted
            etcd.settings_with(stranger),  # does not trust the server
            etcd.settings_with(None, ca=own.ca),  # no certificate
        ):
            refused = EtcdStore(settings, request_timeout=0.7)
            with pytest.raises(UnavailableError):
                await refused.get(KEYS.leader)
            with pytest.raises(UnavailableError):
                await refused.txn([], [Put(KEYS.leader, b"stranger")])
            await refused.close()
        async with connected(etcd) as store:
            assert await store.get(KEYS.leader) is None


async def test_leadership_outlives_a_restart_of_etcd_and_its_fence_holds(etcd: EtcdProcess) -> None:
    async with connected(etcd) as store:
        fences: asyncio.Queue[Compare] = asyncio.Queue()

        async def lead(fence: Compare) -> None:
            await fences.put(fence)
            await asyncio.Event().wait()

        writer = Writer(store, KEYS)
        election = Election(store, KEYS, "me", clock=SystemClock())
        running = asyncio.create_task(election.run(lead))
        fence = await fences.get()
        await writer.commit(writer.begin().create(Node("a")), fence=fence)
        await etcd.restart()
        await etcd.answering()
        fence = fence if election.leading else await fences.get()
        await writer.commit(writer.begin().create(Node("b")), fence=fence)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await election.leader() == ""
        with pytest.raises(FencedError):
            await writer.commit(writer.begin().create(Node("c")), fence=fence)
