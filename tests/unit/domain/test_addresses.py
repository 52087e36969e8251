"""Subnets, addresses, MACs and VNIs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError, ResourceExhaustedError
from minimanager.domain.addresses import (
    FIRST_VNI,
    AddressPool,
    gateway,
    mac_address,
    next_subnet,
    next_vni,
    parse_pools,
)

SMALL = IPv4Network("10.0.0.0/29")


def test_network_gateway_and_broadcast_stay_free() -> None:
    pool = AddressPool(SMALL, ())
    assert [str(pool.take()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(2, 7)]
    with pytest.raises(ResourceExhaustedError, match=r"no free address in 10\.0\.0\.0/29: all 5 are in use"):
        pool.take()


def test_the_search_goes_on_behind_the_last_one_and_in_a_circle() -> None:
    pool = AddressPool(SMALL, {IPv4Address("10.0.0.6")}, after=IPv4Address("10.0.0.4"))
    assert [str(pool.take()) for _ in range(4)] == ["10.0.0.5", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


@pytest.mark.parametrize("after", ["10.9.9.9", "10.0.0.0", "10.0.0.1", "10.0.0.7"])
def test_a_strange_last_one_is_no_obstacle(after: str) -> None:
    assert AddressPool(SMALL, (), after=IPv4Address(after)).take() == IPv4Address("10.0.0.2")


@given(st.sets(st.integers(2, 14)), st.integers(0, 15))
def test_no_address_is_given_twice(used: set[int], after: int) -> None:
    subnet = IPv4Network("10.1.2.0/28")
    taken = {subnet[number] for number in used}
    pool = AddressPool(subnet, taken, after=subnet[after])
    given_out = [pool.take() for _ in range(13 - len(used))]
    assert set(given_out) | taken == {subnet[number] for number in range(2, 15)}
    assert len(given_out) + len(taken) == 13


def test_gateways_and_macs_are_those_of_docker() -> None:
    assert str(gateway(IPv4Network("10.0.0.0/24"))) == "10.0.0.1"
    assert mac_address(IPv4Address("10.0.0.254")) == "02:42:0a:00:00:fe"


def test_subnets_are_cut_from_the_pools_in_order() -> None:
    pools = parse_pools(("10.0.0.0/23", "10.20.0.0/24"), 24)
    found: list[IPv4Network] = []
    for _ in range(3):
        found.append(next_subnet(pools, 24, found))
    assert [str(each) for each in found] == ["10.0.0.0/24", "10.0.1.0/24", "10.20.0.0/24"]
    with pytest.raises(
        ResourceExhaustedError, match=r"no free subnet of /24 in .* 10\.0\.0\.0/23, 10\.20\.0\.0/24"
    ):
        next_subnet(pools, 24, found)


def test_a_bigger_subnet_in_use_is_stepped_over() -> None:
    pools = parse_pools(("10.0.0.0/8",), 24)
    assert next_subnet(pools, 24, [IPv4Network("10.0.0.0/16")]) == IPv4Network("10.1.0.0/24")


def test_a_smaller_one_too() -> None:
    pools = parse_pools(("10.0.0.0/8",), 24)
    assert next_subnet(pools, 24, [IPv4Network("10.0.0.128/28")]) == IPv4Network("10.0.1.0/24")


@pytest.mark.parametrize(
    ("pools", "size", "message"),
    [
        ((), 24, "default address pool: at least one is needed"),
        (("10.0.0.0",), 33, "default address pool mask length: must be 8 to 29, not 33"),
        (("nonsense",), 24, "invalid default address pool 'nonsense': must be an IPv4 network"),
        (("10.0.0.1/8",), 24, "invalid default address pool '10.0.0.1/8'"),
        (("fd00::/64",), 24, "invalid default address pool 'fd00::/64'"),
        (("10.0.0.0/25",), 24, "default address pool 10.0.0.0/25 is smaller than a subnet of /24"),
        (("10.0.0.0/8", "10.1.0.0/16"), 24, "default address pools 10.0.0.0/8 and 10.1.0.0/16 overlap"),
    ],
)
def test_pools_that_do_not_work(pools: tuple[str, ...], size: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_pools(pools, size)
    assert str(caught.value).startswith(message)


def test_vnis_begin_where_swarms_do() -> None:
    assert next_vni(()) == FIRST_VNI == 4096
    assert next_vni((4096, 4098)) == 4097


def test_vnis_end() -> None:
    with pytest.raises(
        ResourceExhaustedError, match="no free VXLAN network identifier: 4096 to 4098 are all in use"
    ):
        next_vni((4096, 4097, 4098), last=4098)


def test_a_part_of_the_subnet_may_be_given_out_and_the_gateway_may_be_anywhere() -> None:
    part = IPv4Network("10.0.0.4/30")
    pool = AddressPool(SMALL, (), within=part, router=IPv4Address("10.0.0.5"))
    assert [str(pool.take()) for _ in range(2)] == ["10.0.0.4", "10.0.0.6"]
    with pytest.raises(ResourceExhaustedError, match=r"no free address in 10\.0\.0\.4/30: all 2 are in use"):
        pool.ensure_free()
    whole = AddressPool(SMALL, (), router=IPv4Address("10.0.0.6"))
    assert [str(whole.take()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(1, 6)]


def test_from_the_end_downwards_and_in_a_circle() -> None:
    pool = AddressPool(SMALL, {IPv4Address("10.0.0.5")}, down=True, after=IPv4Address("10.0.0.4"))
    assert [str(pool.take()) for _ in range(4)] == ["10.0.0.3", "10.0.0.2", "10.0.0.6", "10.0.0.4"]


@given(st.sets(st.integers(0, 15)), st.integers(0, 15), st.booleans(), st.sampled_from((28, 29, 30, 31, 32)))
def test_a_pool_gives_all_that_are_free_and_no_more(
    used: set[int], after: int, down: bool, size: int
) -> None:
    subnet = IPv4Network("10.1.2.0/28")
    part = next(subnet.subnets(new_prefix=size))
    taken = {subnet[number] for number in used}
    pool = AddressPool(subnet, taken, after=subnet[after], within=part, down=down)
    free = set(part) - taken - {subnet[0], subnet[1], subnet[15]}
    assert {pool.take() for _ in range(len(free))} == free
    with pytest.raises(ResourceExhaustedError):
        pool.take()
