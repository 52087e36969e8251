"""Typed transactions and group commit, on the store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from minicommon.errors import ConflictError, UnavailableError
from minimanager import codec
from minimanager.domain.objects import Network, Node, PortProtocol, Service, ServiceSpec
from minimanager.store.api import Compare, Limits, Put, TooLargeError, Txn, TxnResult
from minimanager.store.keys import Keys, Kind
from minimanager.store.memory import MemoryStore
from minimanager.store.transaction import ClaimTakenError, FencedError, StaleError, Transaction
from minimanager.store.writer import GROUP_TXNS, Writer

KEYS = Keys("c1")


class Recording(MemoryStore):
    """Notes the size of each group, and holds the first one until told."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        super().__init__(limits=limits)
        self.groups: list[int] = []
        self.sent = asyncio.Event()
        self.proceed = asyncio.Event()

    async def txn_many(self, txns: Sequence[Txn]) -> Sequence[TxnResult]:
        self.groups.append(len(txns))
        self.sent.set()
        await self.proceed.wait()
        return await super().txn_many(txns)


def create(name: str) -> Transaction:
    return Transaction(KEYS).create(Service(name)).claim(KEYS.name(Kind.SERVICE, name), name)


async def read(store: MemoryStore, obj: Service | Node | Network) -> Service:
    found = await store.get(KEYS.of(obj))
    assert found is not None
    decoded = codec.decode(Kind.SERVICE, found.value, found.mod_revision)
    assert isinstance(decoded, Service)
    return decoded


async def test_an_object_goes_through_its_life() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    created_at = await writer.commit(writer.begin().create(Service("s")))
    service = await read(store, Service("s"))
    assert service.meta.version == created_at
    changed = Service("s", service.meta, ServiceSpec(replicas=3))
    replaced_at = await writer.commit(writer.begin().save(changed))
    assert (await read(store, service)).spec.replicas == 3
    with pytest.raises(
        StaleError, match=f"service s changed .* version {created_at} was given, it is at {replaced_at}"
    ):
        await writer.commit(writer.begin().replace(changed))
    await writer.commit(writer.begin().delete(await read(store, service)))
    with pytest.raises(StaleError, match="service s does not exist any more") as caught:
        await writer.commit(writer.begin().delete(changed))
    assert caught.value.keys == (KEYS.of(service),)


async def test_a_taken_claim_names_its_owner() -> None:
    writer = Writer(MemoryStore(), KEYS)
    port = KEYS.port(PortProtocol.TCP, 80)
    await writer.commit(writer.begin().create(Service("s1")).claim(port, "s1"))
    with pytest.raises(ClaimTakenError) as caught:
        await writer.commit(writer.begin().create(Service("s2")).claim(port, "s2"))
    assert (caught.value.key, caught.value.owner) == (port, "s1")
    await writer.commit(writer.begin().release(port))
    await writer.commit(writer.begin().create(Service("s2")).claim(port, "s2"))


async def test_what_exists_cannot_be_created() -> None:
    writer = Writer(MemoryStore(), KEYS)
    await writer.commit(create("s"))
    with pytest.raises(StaleError, match="service s exists already"):
        await writer.commit(writer.begin().create(Service("s")))


async def test_a_guard_is_checked_but_not_written() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    version = await writer.commit(create("s"))
    await writer.commit(writer.begin().guard_id(Kind.SERVICE, "s", version=version).create(Node("n")))
    with pytest.raises(StaleError):
        await writer.commit(writer.begin().guard_id(Kind.SERVICE, "s", version=version + 1).create(Node("m")))
    assert await store.get(KEYS.of(Node("m"))) is None


async def test_a_fence_that_is_gone_says_so() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    result = await store.txn([], [Put(KEYS.leader, b"me")])
    fence = Compare(KEYS.leader, result.revision)
    await writer.commit(create("a"), fence=fence)
    await store.txn([], [Put(KEYS.leader, b"you")])
    with pytest.raises(FencedError):
        await writer.commit(create("b"), fence=fence)


def test_mistakes_of_the_program_are_found_at_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        create("s").create(Service("s"))
    with pytest.raises(ValueError, match="at two versions"):
        create("s").guard_id(Kind.SERVICE, "s", version=5)
    with pytest.raises(ValueError, match="was not read from the store"):
        Transaction(KEYS).replace(Service("s"))


async def test_while_one_request_is_in_flight_the_next_gathers() -> None:
    store = Recording()
    writer = Writer(store, KEYS)
    first = asyncio.create_task(writer.commit(create("first")))
    await store.sent.wait()
    others = asyncio.gather(*(writer.commit(create(f"s{number}")) for number in range(100)))
    await asyncio.sleep(0)
    store.proceed.set()
    revisions = await others
    assert store.groups == [1, 100]
    assert await first < revisions[0]
    assert set(revisions) == {revisions[0]}


async def test_a_loser_costs_its_neighbors_nothing() -> None:
    writer = Writer(MemoryStore(), KEYS)
    await writer.commit(create("b"))
    outcome = await writer.commit_all([create("a"), create("b"), create("c")])
    assert isinstance(outcome[0], int)
    assert isinstance(outcome[1], ClaimTakenError)
    assert outcome[2] == outcome[0]


async def test_of_rivals_for_one_key_the_first_to_ask_wins() -> None:
    store = Recording()
    store.proceed.set()
    writer = Writer(store, KEYS)
    port = KEYS.port(PortProtocol.TCP, 80)
    rivals = [Transaction(KEYS).create(Service(f"s{n}")).claim(port, f"s{n}") for n in range(3)]
    outcome = await writer.commit_all([*rivals, create("other")])
    assert isinstance(outcome[0], int)
    losers = outcome[1:3]
    assert all(isinstance(loser, ClaimTakenError) and loser.owner == "s0" for loser in losers)
    assert store.groups[0] == 2


async def test_write_skew_is_impossible() -> None:
    """Each checks what the other writes: in one request both would succeed."""
    store = MemoryStore()
    writer = Writer(store, KEYS)
    outcome = await writer.commit_all(
        [
            Transaction(KEYS).create(Node("a")).guard_id(Kind.NODE, "b", version=0),
            Transaction(KEYS).create(Node("b")).guard_id(Kind.NODE, "a", version=0),
        ]
    )
    assert [isinstance(result, ConflictError) for result in outcome] == [False, True]


async def test_groups_keep_to_the_store_s_limits() -> None:
    store = Recording(limits=Limits(max_txn_ops=16, max_request_bytes=4096))
    store.proceed.set()
    outcome = await Writer(store, KEYS).commit_all([create(f"s{number}") for number in range(50)])
    assert all(isinstance(result, int) for result in outcome)
    assert sum(store.groups) == 50


async def test_groups_have_a_size_of_their_own_limit() -> None:
    store = Recording()
    store.proceed.set()
    await Writer(store, KEYS).commit_all([create(f"s{number}") for number in range(GROUP_TXNS + 1)])
    assert store.groups == [GROUP_TXNS, 1]


async def test_one_that_is_too_large_fails_alone() -> None:
    writer = Writer(MemoryStore(limits=Limits(max_request_bytes=4096)), KEYS)
    large = Transaction(KEYS).create(Service("large", spec=ServiceSpec(name="x" * 5000)))
    with pytest.raises(TooLargeError):
        await writer.commit_all([large, create("small")])
    with pytest.raises(ClaimTakenError):
        await writer.commit(create("small"))


async def test_a_store_that_is_away_fails_the_group_and_not_the_writer() -> None:
    store = MemoryStore()
    writer = Writer(store, KEYS)
    store.set_available(False)
    with pytest.raises(UnavailableError):
        await writer.commit(create("a"))
    store.set_available(True)
    await writer.commit(create("a"))


async def test_who_gives_up_waiting_does_not_disturb_the_others() -> None:
    store = Recording()
    writer = Writer(store, KEYS)
    first = asyncio.create_task(writer.commit(create("first")))
    await store.sent.wait()
    impatient, patient = (
        asyncio.create_task(writer.commit(create(name))) for name in ("impatient", "patient")
    )
    await asyncio.sleep(0)
    impatient.cancel()
    store.proceed.set()
    await asyncio.gather(first, patient)
    assert await store.get(KEYS.of(Service("impatient"))) is None


async def test_a_queue_does_not_wait_for_one_time_out_after_the_other() -> None:
    store = Recording()
    writer = Writer(store, KEYS, patience=0)
    first = asyncio.create_task(writer.commit(create("first")))
    await store.sent.wait()
    others = asyncio.gather(*(writer.commit(create(f"s{n}")) for n in range(3)), return_exceptions=True)
    await asyncio.sleep(0)
    store.set_available(False)
    store.proceed.set()
    with pytest.raises(UnavailableError):
        await first
    assert [str(error) for error in await others] == [
        "the store does not answer; the transaction was not sent"
    ] * 3
    assert store.groups == [1]
