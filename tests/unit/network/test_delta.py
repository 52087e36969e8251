"""Whatever the kernel holds, the delta leads to the plan."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.checks import in_words
from miniworker.network.delta import delta, device_name, link_of
from miniworker.network.model import (
    Bridge,
    Carrier,
    KernelObject,
    KernelState,
    LinkAddress,
    Neighbor,
    Operation,
    Tunnel,
    Vxlan,
)

_ADDRESS = IPv4Address("10.0.0.0")


def addresses() -> st.SearchStrategy[IPv4Address]:
    return st.integers(1, 4).map(lambda number: _ADDRESS + number)


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    """Up to two networks with whatever hangs on their devices; each name stands for one device."""
    objects: set[KernelObject] = set()
    links = [""]
    if draw(st.booleans()):
        links.append("mini-wg")
        objects.add(
            Carrier("mini-wg", draw(st.sampled_from(["tun", "wireguard"])), 1420, draw(st.booleans()))
        )
        objects.update(LinkAddress("mini-wg", item, 32) for item in draw(st.sets(addresses(), max_size=1)))
    for number in range(draw(st.integers(0, 2))):
        bridge, vxlan = f"mbr-{number}", f"mvx-{number}"
        mac, mtu = draw(st.sampled_from(["02:42:00:00:00:01", "02:42:00:00:00:02"])), 1450
        objects.add(Bridge(bridge, mac, mtu, draw(st.booleans())))
        objects.update(LinkAddress(bridge, item, 24) for item in draw(st.sets(addresses(), max_size=2)))
        objects.update(
            Neighbor(bridge, item, f"02:42:{number}") for item in draw(st.sets(addresses(), max_size=3))
        )
        if draw(st.booleans()):
            vni = draw(st.integers(4096, 4097))
            link = draw(st.sampled_from(links))
            objects.add(Vxlan(vxlan, bridge, vni, draw(addresses()), 4789, mtu, link=link))
            objects.update(
                Tunnel(vxlan, f"02:42:{draw(st.integers(0, 1))}", item, draw(st.booleans()), link)
                for item in draw(st.sets(addresses(), max_size=1))
            )
    return frozenset(objects)


class Kernel:
    """The kernel's own rules about the objects."""

    def __init__(self, state: KernelState) -> None:
        self.state = set(state)

    def do(self, operation: Operation) -> None:
        item = operation.item
        names = {name for name in map(device_name, self.state) if name}
        if not operation.add:
            assert item in self.state, f"{item} is not there"
            self.state.remove(item)
            names = {device_name(item)} - {""}
            if isinstance(item, Carrier):
                ended = {
                    other for other in self.state if isinstance(other, Vxlan) and other.link == item.name
                }
                self.state -= ended
                names |= {other.name for other in ended}
            if names:
                self.state = {
                    other for other in self.state if device_name(other) or link_of(other) not in names
                }
            return
        assert item not in self.state
        assert device_name(item) not in names, f"{item} is there twice"
        if isinstance(item, Vxlan):
            assert item.bridge in names
            assert not item.link or item.link in names
        if not device_name(item):
            assert link_of(item) in names, f"{item} has no device"
        self.state.add(item)


@given(wanted=states(), observed=states())
def test_applying_the_delta_gives_the_plan(wanted: KernelState, observed: KernelState) -> None:
    kernel = Kernel(observed)
    for operation in delta(wanted, observed):
        kernel.do(operation)
    assert kernel.state == wanted


@given(states())
def test_nothing_is_done_when_the_kernel_is_as_it_should_be(state: KernelState) -> None:
    assert delta(state, state) == ()


@given(wanted=states(), observed=states(), data=st.data())
def test_a_run_that_was_interrupted_is_completed_by_the_next(
    wanted: KernelState, observed: KernelState, data: st.DataObject
) -> None:
    operations = delta(wanted, observed)
    kernel = Kernel(observed)
    for operation in operations[: data.draw(st.integers(0, len(operations)))]:
        kernel.do(operation)
    for operation in delta(wanted, frozenset(kernel.state)):
        kernel.do(operation)
    assert kernel.state == wanted


@pytest.mark.parametrize("state", [frozenset(), frozenset({Bridge("mbr-0", "02:42:00:00:00:01", 1450)})])
def test_all_goes_when_nothing_is_wanted(state: KernelState) -> None:
    assert {item.item for item in delta(frozenset(), state)} == state


@given(wanted=states(), observed=states())
def test_every_step_says_what_differs(wanted: KernelState, observed: KernelState) -> None:
    for operation in delta(wanted, observed):
        said = in_words(operation)
        assert said.missing == operation.add
        assert link_of(operation.item) in said.item
        assert not said.task_id
