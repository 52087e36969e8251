"""The ledger on a store in memory: several who append, and everything that can be done to what they wrote."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minicommon.clock import SystemClock
from minicommon.errors import UnavailableError
from minimanager.store.anchor import Anchor
from minimanager.store.api import Delete, KeyValue, Put, Range
from minimanager.store.audit import Verdict, records, verify
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger
from minimanager.store.memory import MemoryStore
from miniproto.v1.secrets_pb2 import LedgerRecord

KEYS = Keys("cluster")
ENVELOPE = Envelope(b"k" * KEY_BYTES, "cluster")


def ledger(store: MemoryStore, path: Path | None = None) -> Ledger:
    return Ledger(store, KEYS, ENVELOPE, Anchor(path))


async def verdict(one: Ledger) -> Verdict:
    macs, seen = await one.macs(), one.anchor.seen
    return verify(await one.read(), KEYS, macs, seen, cluster_id="cluster")


async def fill(one: Ledger, count: int) -> None:
    for number in range(count):
        await one.append(LedgerRecord(task_id=f"t{number}"))


async def test_managers_that_append_at_once_make_one_chain() -> None:
    store = MemoryStore(clock=SystemClock())
    managers = [ledger(store) for _ in range(4)]
    appended = await asyncio.gather(
        *(one.append(LedgerRecord(task_id=f"{index}")) for one in managers for index in range(100))
    )
    assert sorted(each.number for each in appended) == list(range(1, 401))
    for one in managers:
        found = await verdict(one)
        assert (found.problems, found.records) == ([], 400)


async def test_an_empty_ledger_is_whole() -> None:
    found = await verdict(ledger(MemoryStore(clock=SystemClock())))
    assert (found.problems, found.records) == ([], 0)


async def test_a_manager_goes_on_where_it_was_before_its_restart(tmp_path: Path) -> None:
    store, path = MemoryStore(clock=SystemClock()), tmp_path / "ledger.json"
    await fill(ledger(store, path), 3)
    again = ledger(store, path)
    assert (await again.append(LedgerRecord())).number == 4
    assert (await verdict(again)).problems == []
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["number"] == 4


async def test_what_was_found_is_remembered_over_a_restart(tmp_path: Path) -> None:
    store, path = MemoryStore(clock=SystemClock()), tmp_path / "ledger.json"
    await fill(ledger(store, path), 3)
    await store.txn((), [Delete(KEYS.ledger_entry(number)) for number in (1, 2, 3)])
    await store.txn((), [Delete(KEYS.ledger_head)])
    await fill(ledger(store, path), 9)  # longer than before: only the manager's own note tells
    found = await verdict(ledger(store, path))
    assert "the ledger was cut off: it ended with record 0 after record 3" in found.problems


async def test_a_note_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("{")
    assert "cannot be read" in Anchor(path).problems[0]


async def test_a_head_that_is_gone_holds_no_delivery_up_and_is_a_finding() -> None:
    store = MemoryStore(clock=SystemClock())
    one = ledger(store)
    await fill(one, 3)
    await store.txn((), [Delete(KEYS.ledger_head)])
    assert (await one.append(LedgerRecord())).number == 4
    assert (await verdict(one)).problems == ["the ledger's head was missing or false, or not the end"]


async def test_a_forged_head_is_not_followed() -> None:
    store = MemoryStore(clock=SystemClock())
    one = ledger(store)
    await fill(one, 3)
    found = await store.get(KEYS.ledger_head)
    assert found is not None
    await store.txn((), [Put(KEYS.ledger_head, found.value[:-1] + b"x")])
    assert (await one.append(LedgerRecord())).number == 4
    assert (await verdict(one)).problems


async def test_who_waits_is_told_when_the_store_does_not_answer() -> None:
    class Silent(MemoryStore):
        async def txn(self, *_: object, **__: object) -> None:  # type: ignore[override]
            raise UnavailableError("no member answers")

    with pytest.raises(UnavailableError):
        await ledger(Silent(clock=SystemClock())).append(LedgerRecord())


async def test_records_that_cannot_be_read_are_left_out_of_the_list_and_found_by_the_audit() -> None:
    store = MemoryStore(clock=SystemClock())
    one = ledger(store)
    await fill(one, 3)
    await store.txn((), [Put(KEYS.ledger_entry(2), b"\xff")])
    assert [each.number for each in records(await one.read(), KEYS, await one.macs())] == [1, 3]
    assert "record 2 cannot be read" in (await verdict(one)).problems


COUNT = 6
ITEMS = st.integers(1, COUNT)


def _mutations() -> st.SearchStrategy[tuple[str, int, int]]:
    return st.tuples(
        st.sampled_from(["remove", "copy", "swap", "bit", "cut", "insert", "head"]),
        ITEMS,
        st.integers(0, 4000),
    )


def _mutated(listed: Range, what: str, place: int, number: int) -> Range:
    """The ledger after somebody with access to etcd has been there."""
    entries = {item.key: item.value for item in listed.items}
    key, other = KEYS.ledger_entry(place), KEYS.ledger_entry(number % COUNT + 1)
    match what:
        case "remove":
            del entries[key]
        case "copy":
            entries[key] = entries[other]
        case "swap":
            entries[key], entries[other] = entries[other], entries[key]
        case "bit":
            value = bytearray(entries[key])
            value[number % len(value)] ^= 1 << number % 8
            entries[key] = bytes(value)
        case "cut":
            for later in range(place, COUNT + 1):
                del entries[KEYS.ledger_entry(later)]
        case "insert":
            entries[KEYS.ledger_entry(COUNT + 1)] = entries[key]
        case "head":
            value = bytearray(entries[KEYS.ledger_head])
            value[number % len(value)] ^= 1 << number % 8
            entries[KEYS.ledger_head] = bytes(value)
    return Range(tuple(KeyValue(key, entries[key], 1, 1) for key in sorted(entries)), 1)


@pytest.fixture(scope="module")
def written() -> tuple[Range, Ledger]:
    async def make() -> tuple[Range, Ledger]:
        one = ledger(MemoryStore(clock=SystemClock()))
        await fill(one, COUNT)
        await one.macs()
        return await one.read(), one

    return asyncio.run(make())


@settings(deadline=None)
@given(_mutations())
def test_no_change_of_any_record_goes_unnoticed(
    written: tuple[Range, Ledger], mutation: tuple[str, int, int]
) -> None:
    listed, one = written
    changed = _mutated(listed, *mutation)
    macs = one._macs
    assert macs is not None
    found = verify(changed, KEYS, macs, one.anchor.seen, cluster_id="cluster")
    same = [(item.key, item.value) for item in changed.items] == [
        (item.key, item.value) for item in listed.items
    ]
    assert bool(found.problems) != same
