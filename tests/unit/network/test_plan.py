"""What a fabric asks of the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.api import Attachment, Fabric, OverlayNetwork, RemoteEndpoint, Sandbox
from miniworker.network.errors import NetworkError, UnknownNetworkError
from miniworker.network.gateway import POOL, choose_address, choose_subnet, gateway_of
from miniworker.network.model import Bridge, LinkAddress, Neighbor, ReturnPath, Tunnel, Vxlan
from miniworker.network.names import bridge_name, gateway_port_name, mac_of, port_name, vxlan_name
from miniworker.network.plan import plan, return_paths
from miniworker.network.sandbox_plan import on_ingress, overlay_interfaces, plan_sandbox

ID = "9qv2cn8t4ym1k0w7z3xdr5hbj"
OWN, OTHER = IPv4Address("10.77.0.11"), IPv4Address("10.77.0.12")
NETWORK = OverlayNetwork(
    id=ID,
    name="ingress",
    subnet=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.1"),
    vni=4096,
    mtu=1450,
    ingress=True,
    node_address=IPv4Address("10.0.0.2"),
)
FABRIC = Fabric(
    "node1",
    OWN,
    (NETWORK,),
    (
        RemoteEndpoint(ID, IPv4Address("10.0.0.2"), "node1", OWN),
        RemoteEndpoint(ID, IPv4Address("10.0.0.3"), "node2", OTHER),
        RemoteEndpoint(ID, IPv4Address("10.0.0.5"), "node1", OWN, "task1"),
        RemoteEndpoint(ID, IPv4Address("10.0.0.6"), "node2", OTHER, "task2"),
    ),
)
LOCAL = IPv4Network("172.18.0.0/16")


def test_a_network_is_a_bridge_a_tunnel_device_and_known_places() -> None:
    assert plan(FABRIC) == {
        Bridge("mbr-9qv2cn8t", "02:42:0a:00:00:02", 1450),
        Vxlan("mvx-9qv2cn8t", "mbr-9qv2cn8t", 4096, OWN, 4789, 1450),
        LinkAddress("mbr-9qv2cn8t", IPv4Address("10.0.0.2"), 24),
        Neighbor("mbr-9qv2cn8t", IPv4Address("10.0.0.3"), "02:42:0a:00:00:03"),
        Neighbor("mbr-9qv2cn8t", IPv4Address("10.0.0.5"), "02:42:0a:00:00:05"),
        Neighbor("mbr-9qv2cn8t", IPv4Address("10.0.0.6"), "02:42:0a:00:00:06"),
        Tunnel("mvx-9qv2cn8t", "02:42:0a:00:00:03", OTHER),
        Tunnel("mvx-9qv2cn8t", "02:42:0a:00:00:06", OTHER),
    }


def test_an_endpoint_of_a_network_that_is_not_here_is_nothing() -> None:
    stranger = RemoteEndpoint("elsewhere", IPv4Address("10.9.0.3"), "node2", OTHER)
    assert plan(replace(FABRIC, endpoints=(*FABRIC.endpoints, stranger))) == plan(FABRIC)


def test_answers_go_back_through_any_node_this_one_included() -> None:
    expected = {
        ReturnPath("02:42:0a:00:00:02", IPv4Address("10.0.0.2"), 0x10002),
        ReturnPath("02:42:0a:00:00:03", IPv4Address("10.0.0.3"), 0x10003),
    }
    assert return_paths(FABRIC) == expected
    assert return_paths(replace(FABRIC, endpoints=FABRIC.endpoints[1:])) == expected


def test_a_sandbox_has_the_ingress_network_first_and_the_way_out_last() -> None:
    backend = replace(
        NETWORK, id="backend0000000", subnet=IPv4Network("10.0.1.0/24"), ingress=False, node_address=None
    )
    fabric = replace(FABRIC, networks=(backend, NETWORK))
    attachments = (
        Attachment("backend0000000", IPv4Address("10.0.1.4")),
        Attachment(ID, IPv4Address("10.0.0.5")),
    )
    made = plan_sandbox(
        Sandbox("task1", attachments), fabric, subnet=LOCAL, local_address=IPv4Address("172.18.0.2")
    )
    assert [(item.name, str(item.address), item.bridge) for item in made.interfaces] == [
        ("eth0", "10.0.0.5", "mbr-9qv2cn8t"),
        ("eth1", "10.0.1.4", "mbr-backend0"),
        ("eth2", "172.18.0.2", "mini_gwbridge"),
    ]
    assert made.source == IPv4Address("10.0.0.5")
    assert made.returns == return_paths(fabric)
    assert overlay_interfaces("task1", made.addresses, fabric) == made.interfaces[:2]
    assert on_ingress(made.addresses, fabric)


def test_a_task_without_networks_has_only_the_way_out() -> None:
    made = plan_sandbox(Sandbox("t", ()), FABRIC, subnet=LOCAL, local_address=IPv4Address("172.18.0.9"))
    assert [item.name for item in made.interfaces] == ["eth0"]
    assert (made.source, made.returns) == (IPv4Address("172.18.0.9"), frozenset())
    assert not on_ingress(made.addresses, FABRIC)


def test_an_unknown_network_is_refused_by_name() -> None:
    wanted = Sandbox("t", (Attachment("nowhere", IPv4Address("10.0.0.5")),))
    with pytest.raises(UnknownNetworkError, match=f"nowhere.*{ID}"):
        plan_sandbox(wanted, FABRIC, subnet=LOCAL, local_address=IPv4Address("172.18.0.2"))


@given(st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=25, max_size=25), st.integers(0, 63))
def test_interface_names_fit(identifier: str, index: int) -> None:
    names = {
        bridge_name(identifier),
        vxlan_name(identifier),
        port_name(identifier, index),
        gateway_port_name(identifier),
    }
    assert len(names) == 4
    assert max(map(len, names)) <= 15


@given(st.ip_addresses(v=4).map(lambda address: IPv4Address(int(address))))
def test_a_mac_tells_its_address(address: IPv4Address) -> None:
    mac = bytes.fromhex(mac_of(address).replace(":", ""))
    assert mac == b"\x02\x42" + address.packed


def test_the_local_subnet_is_the_first_that_is_free() -> None:
    assert choose_subnet([]) == POOL[0]
    assert choose_subnet([IPv4Network("0.0.0.0/0"), IPv4Network("172.18.5.0/24")]) == POOL[1]
    with pytest.raises(NetworkError, match="no free subnet"):
        choose_subnet([IPv4Network("172.16.0.0/12")])


@given(st.sets(st.integers(1, 20)))
def test_local_addresses_are_free_and_not_the_bridges_own(offsets: set[int]) -> None:
    taken = frozenset(LOCAL.network_address + offset for offset in offsets)
    chosen = choose_address(LOCAL, taken)
    assert chosen in LOCAL
    assert chosen not in taken
    assert chosen != gateway_of(LOCAL)


def test_a_full_local_subnet_is_said() -> None:
    small = IPv4Network("172.18.0.0/30")
    with pytest.raises(NetworkError, match="no free address"):
        choose_address(small, frozenset({IPv4Address("172.18.0.2")}))
