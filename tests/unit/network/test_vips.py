"""Virtual addresses of one sandbox, and what leads from some to others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.api import Attachment, VirtualService
from miniworker.network.vips import Vip, VipDelta, changed_services, removed_backends, vips_of

NET, OTHER_NET = "net1", "net2"
BASE = IPv4Address("10.0.1.0")
NOBODY = IPv4Address("127.109.105.110")


def addresses() -> st.SearchStrategy[IPv4Address]:
    return st.integers(1, 6).map(lambda number: BASE + number)


def backends() -> st.SearchStrategy[tuple[IPv4Address, ...]]:
    return st.lists(addresses(), max_size=4, unique=True).map(lambda items: tuple(sorted(items)))


def vips() -> st.SearchStrategy[list[Vip]]:
    return st.lists(st.builds(Vip, addresses(), backends()), max_size=5, unique_by=lambda vip: vip.address)


def services() -> st.SearchStrategy[list[VirtualService]]:
    service = st.builds(
        VirtualService, st.sampled_from([NET, OTHER_NET]), st.just("s"), addresses(), backends()
    )
    return st.lists(service, max_size=6, unique_by=lambda item: (item.network_id, item.address))


@given(old=vips(), new=vips())
def test_the_delta_leads_from_the_old_to_the_new_and_touches_nothing_else(
    old: list[Vip], new: list[Vip]
) -> None:
    change = VipDelta.of(old, new)
    state = {vip.address: vip for vip in old}
    for vip in change.removed:
        assert state.pop(vip.address) == vip
    for vip in change.changed:
        assert state[vip.address].backends, "a chain is changed, so there is one"
        assert vip.backends
        assert state[vip.address] != vip
        state[vip.address] = vip
    for vip in change.added:
        assert vip.address not in state
        state[vip.address] = vip
    assert set(state.values()) == set(new)
    assert not {vip.address for vip in set(old) & set(new)} & {
        vip.address for vip in (*change.removed, *change.changed, *change.added)
    }


@given(services(), addresses())
def test_a_task_sees_the_services_of_its_networks_and_all_their_backends(
    items: list[VirtualService], own: IPv4Address
) -> None:
    seen = vips_of([Attachment(NET, own)], items)
    assert {(vip.address, frozenset(vip.backends)) for vip in seen} == {
        (item.address, frozenset(item.backends)) for item in items if item.network_id == NET
    }


def test_tasks_begin_at_different_backends() -> None:
    service = VirtualService(NET, "s", BASE + 100, tuple(BASE + number for number in range(1, 5)))
    first = Counter[IPv4Address]()
    for number in range(10, 110):
        (vip,) = vips_of([Attachment(NET, BASE + number)], [service])
        first[vip.backends[0]] += 1
    assert set(first) == set(service.backends)
    assert max(first.values()) <= 40


@given(services(), st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_only_what_differs_counts_as_changed(
    items: list[VirtualService], first: int, second: int, copied: bool
) -> None:
    old, new = items[: max(first, second)], items[min(first, second) :]
    gone, fresh = changed_services(old, [replace(item) for item in new] if copied else new)
    assert (gone, fresh) == (frozenset(old) - frozenset(new), frozenset(new) - frozenset(old))


@given(old=vips(), new=vips())
def test_flows_are_forgotten_of_those_who_get_no_more(old: list[Vip], new: list[Vip]) -> None:
    gone = removed_backends(old, new, nobody=NOBODY)
    after = {vip.address: vip.backends or (NOBODY,) for vip in new}
    for vip in old:
        for backend in vip.backends or (NOBODY,):
            assert ((vip.address, backend) in gone) == (backend not in after.get(vip.address, ()))
