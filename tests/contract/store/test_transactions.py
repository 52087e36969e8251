"""What a transaction promises, on any store."""

from __future__ import annotations

import pytest
from minimanager.store.api import (
    Compare,
    Delete,
    LeaseGoneError,
    Operation,
    Put,
    Store,
    TooLargeError,
    Txn,
    TxnResult,
)


async def put(store: Store, key: str, value: bytes) -> int:
    result = await store.txn([], [Put(key, value)])
    assert result.succeeded
    return result.revision


async def values(store: Store, prefix: str) -> dict[str, bytes]:
    return {item.key.removeprefix(prefix): item.value for item in (await store.list(prefix)).items}


async def test_a_key_knows_when_it_was_created_and_last_changed(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    second = await put(store, prefix + "a", b"2")
    found = await store.get(prefix + "a")
    assert found is not None
    assert (found.value, found.create_revision, found.mod_revision) == (b"2", first, second)
    assert second > first


async def test_what_does_not_exist_is_none(store: Store, prefix: str) -> None:
    assert await store.get(prefix + "missing") is None


async def test_all_or_nothing(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    wrong = [Compare(prefix + "a", revision), Compare(prefix + "b", revision)]
    result = await store.txn(wrong, [Put(prefix + "a", b"2"), Put(prefix + "c", b"3")])
    assert not result.succeeded
    assert await values(store, prefix) == {"a": b"1"}


async def test_version_zero_means_that_the_key_does_not_exist(store: Store, prefix: str) -> None:
    create: list[Operation] = [Put(prefix + "a", b"1")]
    assert (await store.txn([Compare(prefix + "a", 0)], create)).succeeded
    assert not (await store.txn([Compare(prefix + "a", 0)], create)).succeeded
    await store.txn([], [Delete(prefix + "a")])
    assert (await store.txn([Compare(prefix + "a", 0)], create)).succeeded


async def test_a_loser_learns_what_it_lost_to(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "taken", b"owner")
    compares = [Compare(prefix + "taken", 0), Compare(prefix + "gone", 7)]
    result = await store.txn(compares, [Put(prefix + "taken", b"me")])
    assert set(result.found) == {prefix + "taken"}
    assert result.found[prefix + "taken"].value == b"owner"
    assert result.found[prefix + "taken"].mod_revision == revision


async def test_removing_what_is_not_there_is_no_change(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    result = await store.txn([], [Delete(prefix + "b")])
    assert result == TxnResult(True, revision)


async def test_of_several_the_losers_do_not_hold_up_the_winners(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    results = await store.txn_many(
        [
            Txn((Compare(prefix + "a", revision),), (Put(prefix + "a", b"2"),)),
            Txn((Compare(prefix + "b", 99),), (Put(prefix + "b", b"2"),)),
            Txn((Compare(prefix + "c", 0),), (Put(prefix + "c", b"2"),)),
        ]
    )
    assert [result.succeeded for result in results] == [True, False, True]
    assert await values(store, prefix) == {"a": b"2", "c": b"2"}
    items = (await store.list(prefix)).items
    assert {item.mod_revision for item in items} == {results[0].revision}


async def test_several_may_compare_the_same_key(store: Store, prefix: str) -> None:
    guard = Compare(prefix + "leader", await put(store, prefix + "leader", b"me"))
    results = await store.txn_many([Txn((guard,), (Put(f"{prefix}{name}", b""),)) for name in "ab"])
    assert [result.succeeded for result in results] == [True, True]


async def test_several_must_be_independent(store: Store, prefix: str) -> None:
    write = Txn((), (Put(prefix + "a", b"1"),))
    with pytest.raises(ValueError, match="two transactions of one group write"):
        await store.txn_many([write, write])
    with pytest.raises(ValueError, match="another writes it"):
        await store.txn_many([write, Txn((Compare(prefix + "a", 0),), (Put(prefix + "b", b"1"),))])


async def test_none_at_all(store: Store) -> None:
    assert list(await store.txn_many([])) == []


async def test_a_value_that_is_too_big_is_refused_with_both_numbers(store: Store, prefix: str) -> None:
    limit = store.limits.max_request_bytes
    with pytest.raises(TooLargeError, match=f"at most {limit} bytes .* this one has about"):
        await put(store, prefix + "a", bytes(limit))
    assert await store.get(prefix + "a") is None


async def test_the_biggest_value_that_our_limit_allows_fits(store: Store, prefix: str) -> None:
    size = store.limits.max_request_bytes - 512
    await put(store, prefix + "a", bytes(size))
    found = await store.get(prefix + "a")
    assert found is not None
    assert len(found.value) == size


async def test_as_many_operations_as_our_limit_allows_fit_and_no_more(store: Store, prefix: str) -> None:
    most = store.limits.max_txn_ops
    operations = [Put(f"{prefix}{number}", b"") for number in range(most + 1)]
    with pytest.raises(TooLargeError, match=f"at most {most} operations .* this one has {most + 1}"):
        await store.txn([], operations)
    assert (await store.txn([], operations[:most])).succeeded
    assert len((await store.list(prefix)).items) == most


async def test_the_largest_group_fits(store: Store, prefix: str) -> None:
    count = store.limits.max_txn_ops // 2
    txns = [
        Txn((Compare(f"{prefix}{n}", 0),), tuple(Put(f"{prefix}{n}{part}", b"") for part in ("", "x")))
        for n in range(count)
    ]
    assert all(result.succeeded for result in await store.txn_many(txns))


async def test_a_key_cannot_hang_on_a_lease_that_has_ended(store: Store, prefix: str) -> None:
    lease = await store.grant_lease(60)
    await store.revoke_lease(lease)
    with pytest.raises(LeaseGoneError):
        await store.txn([], [Put(prefix + "a", b"1", lease)])


async def test_the_keys_of_a_lease_go_with_it(store: Store, prefix: str) -> None:
    lease = await store.grant_lease(60)
    await store.txn([], [Put(prefix + "a", b"1", lease), Put(prefix + "b", b"1")])
    assert await store.renew_lease(lease)
    found = await store.get(prefix + "a")
    assert found is not None
    assert found.lease_id == lease
    await store.revoke_lease(lease)
    assert await values(store, prefix) == {"b": b"1"}
    assert not await store.renew_lease(lease)
    await store.revoke_lease(lease)
