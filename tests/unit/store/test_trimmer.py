"""A ledger whose oldest records are removed: what stays is proved as before, and nobody else can remove any."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minicommon.clock import SECOND, VirtualClock
from minicommon.errors import UnavailableError
from minicommon.units import HOUR
from minimanager.store.anchor import Anchor
from minimanager.store.api import Compare, Delete, KeyValue, Operation, Put, Range, TxnResult
from minimanager.store.audit import Verdict, records, verify
from minimanager.store.checkpoint import Checkpoint
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger
from minimanager.store.memory import MemoryStore
from minimanager.store.trimmer import Keep, Trimmer
from miniproto.v1 import secrets_pb2
from miniproto.v1.secrets_pb2 import LedgerRecord

KEYS = Keys("cluster")
FOREVER = 10**18


class Site:
    """A ledger and its trimmer, on a store that can be made to fail."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.clock = VirtualClock()
        self.store = store or MemoryStore(clock=self.clock)
        self.ledger = Ledger(self.store, KEYS, Envelope(b"k" * KEY_BYTES, "cluster"), Anchor(None))
        self.trimmer = Trimmer(
            self.ledger, self.store, KEYS, self.clock, cluster_id="cluster", node_id="manager"
        )

    async def fill(self, count: int, *, every_ns: int = 0) -> None:
        for number in range(count):
            self.clock.advance(every_ns)
            record = LedgerRecord(
                event=secrets_pb2.LEDGER_EVENT_REFUSED, task_id=f"t{number}", at_ns=self.clock.now_ns()
            )
            await self.ledger.append(record, mark=KEYS.ledger_receipt(number + 1))

    async def verdict(self) -> Verdict:
        macs, seen = await self.ledger.macs(), self.ledger.anchor.seen
        return verify(await self.ledger.read(), KEYS, macs, seen, cluster_id="cluster")

    async def numbers(self) -> list[int]:
        macs = await self.ledger.macs()
        return [each.number for each in records(await self.ledger.read(), KEYS, macs)]

    async def keys(self, prefix: str) -> list[int]:
        return [int(item.key.removeprefix(prefix)) for item in (await self.store.list(prefix)).items]


async def test_the_oldest_go_and_the_rest_is_proved_from_the_checkpoint_on() -> None:
    site = Site()
    await site.fill(30)
    assert await site.trimmer.trim(Keep(10, FOREVER)) == 20
    assert await site.numbers() == list(range(21, 32))
    assert await site.keys(KEYS.ledger_receipts) == list(range(21, 31))
    found = await site.verdict()
    assert (found.problems, found.records, found.removed) == ([], 11, 20)
    assert found.removed_at_ns == site.clock.now_ns()
    *_, last = records(await site.ledger.read(), KEYS, await site.ledger.macs())
    assert (last.event, last.message) == (secrets_pb2.LEDGER_EVENT_REMOVED, "records 1 to 20")
    assert (await site.ledger.append(LedgerRecord(at_ns=site.clock.now_ns()))).number == 32
    assert await site.trimmer.trim(Keep(10, FOREVER)) == 2
    assert (await site.verdict()).problems == []


async def test_by_age() -> None:
    site = Site()
    await site.fill(10, every_ns=HOUR)
    assert await site.trimmer.trim(Keep(100, 4 * HOUR)) == 5
    assert await site.numbers() == list(range(6, 12))
    assert (await site.verdict()).problems == []


async def test_a_tenth_more_is_left_alone_so_that_removals_do_not_fill_the_ledger() -> None:
    site = Site()
    await site.fill(110, every_ns=SECOND)
    assert await site.trimmer.trim(Keep(100, FOREVER)) == 0
    assert await site.trimmer.trim(Keep(200, 100 * SECOND)) == 0
    await site.fill(1)
    assert await site.trimmer.trim(Keep(100, FOREVER)) == 11
    assert await site.trimmer.trim(Keep(100, FOREVER)) == 0


async def test_one_that_was_killed_while_it_deleted_is_completed() -> None:
    class Dying(MemoryStore):
        dead = False

        async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
            if self.dead and any(isinstance(each, Delete) for each in operations):
                raise UnavailableError("no member answers")
            return await super().txn(compares, operations)

    store = Dying(clock=VirtualClock())
    site = Site(store)
    await site.fill(20)
    store.dead = True
    with pytest.raises(UnavailableError):
        await site.trimmer.trim(Keep(5, FOREVER))
    store.dead = False
    assert len(await site.keys(KEYS.ledger_entries)) == 21
    assert await site.numbers() == list(range(16, 22))  # what was to be deleted counts no more
    assert (await site.verdict()).problems == []
    assert await site.trimmer.trim(Keep(100, FOREVER)) == 0
    assert await site.keys(KEYS.ledger_entries) == list(range(16, 22))
    assert await site.keys(KEYS.ledger_receipts) == list(range(16, 21))


async def test_whoever_lost_the_leadership_trims_nothing() -> None:
    site = Site()
    await site.fill(20)
    assert await site.trimmer.trim(Keep(5, FOREVER), Compare(KEYS.leader, 7)) == 0
    assert len(await site.numbers()) == 20


async def test_records_appended_meanwhile_by_another_manager_are_not_lost() -> None:
    site = Site()
    other = Ledger(site.store, KEYS, Envelope(b"k" * KEY_BYTES, "cluster"), Anchor(None))
    await site.fill(40)
    trimming = asyncio.create_task(site.trimmer.trim(Keep(10, FOREVER)))
    writers = [other, site.ledger] * 20
    await asyncio.gather(*(one.append(LedgerRecord(at_ns=site.clock.now_ns())) for one in writers))
    removed = await trimming
    found = await site.verdict()
    assert found.problems == []
    assert (found.last, found.removed) == (40 + len(writers) + (removed > 0), removed)


async def test_what_was_wrong_with_removed_records_is_kept_for_good() -> None:
    site = Site()
    await site.fill(20)
    entry = await site.store.get(KEYS.ledger_entry(3))
    assert entry is not None
    await site.store.txn((), [Put(KEYS.ledger_entry(3), entry.value[:-1] + b"x")])
    assert await site.trimmer.trim(Keep(5, FOREVER)) == 15
    assert "record 3 was changed or is forged" in (await site.verdict()).problems
    await site.fill(20)
    assert await site.trimmer.trim(Keep(5, FOREVER)) > 0
    assert "record 3 was changed or is forged" in (await site.verdict()).problems


async def test_a_record_that_cannot_be_read_stays_with_all_after_it() -> None:
    site = Site()
    await site.fill(20)
    await site.store.txn((), [Put(KEYS.ledger_entry(8), b"\xff")])
    assert await site.trimmer.trim(Keep(5, FOREVER)) == 7
    assert "record 8 cannot be read" in (await site.verdict()).problems


async def test_a_forged_checkpoint_is_a_finding_and_removes_nothing() -> None:
    site = Site()
    await site.fill(20)
    forged = Checkpoint(10, b"m" * 32, 1).sealed(b"another key")
    await site.store.txn((), [Put(KEYS.ledger_checkpoint, forged)])
    assert (await site.verdict()).problems == ["the ledger's checkpoint was changed or is forged"]
    assert await site.trimmer.trim(Keep(5, FOREVER)) == 0
    assert len(await site.keys(KEYS.ledger_entries)) == 20


@pytest.fixture(scope="module")
def trimmed() -> tuple[Range, Site]:
    async def make() -> tuple[Range, Site]:
        site = Site()
        await site.fill(12)
        await site.trimmer.trim(Keep(6, FOREVER))
        return await site.ledger.read(), site

    return asyncio.run(make())


@settings(deadline=None)
@given(st.integers(0, 100), st.sampled_from(["remove", "bit", "repeat"]), st.integers(0, 4000))
def test_no_change_of_what_stays_goes_unnoticed(
    trimmed: tuple[Range, Site], place: int, what: str, number: int
) -> None:
    listed, site = trimmed
    items = {item.key: item.value for item in listed.items if not item.key.startswith(KEYS.ledger_receipts)}
    del items[KEYS.ledger_key]
    key = sorted(items)[place % len(items)]
    if what == "remove":
        del items[key]
    elif what == "repeat":
        items[KEYS.ledger_entry(14)] = items[key]
    else:
        value = bytearray(items[key])
        value[number % len(value)] ^= 1 << number % 8
        items[key] = bytes(value)
    changed = Range(tuple(KeyValue(each, items[each], 1, 1) for each in sorted(items)), 1)
    macs = site.ledger._macs
    assert macs is not None
    assert verify(changed, KEYS, macs, site.ledger.anchor.seen, cluster_id="cluster").problems
