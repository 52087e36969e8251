"""What a fabric asks of the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.network.api import (
    Attachment,
    Fabric,
    HostPort,
    OverlayNetwork,
    RemoteEndpoint,
    Sandbox,
    VirtualService,
)
from miniworker.network.checks import inner_differences
from miniworker.network.errors import NetworkError, UnknownNetworkError
from miniworker.network.gateway import POOL, choose_address, choose_subnet, gateway_of
from miniworker.network.model import Bridge, LinkAddress, Neighbor, Tunnel, Vxlan
from miniworker.network.names import bridge_name, gateway_port_name, mac_of, port_name, vxlan_name
from miniworker.network.plan import plan
from miniworker.network.sandbox_plan import (
    SandboxPlan,
    leads_out,
    overlay_interfaces,
    plan_found,
    plan_sandbox,
    reattached,
)
from miniworker.network.sandboxes import FoundSandbox

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
USER = replace(
    NETWORK,
    id="backend0000000",
    subnet=IPv4Network("10.0.1.0/24"),
    gateway=IPv4Address("10.0.1.1"),
    vni=4097,
    ingress=False,
    node_address=None,
)
INTERNAL = replace(
    USER,
    id="internal000000",
    subnet=IPv4Network("10.0.2.0/24"),
    gateway=IPv4Address("10.0.2.1"),
    internal=True,
)


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


def test_every_node_has_the_gateways_address_and_no_tunnel_leads_to_it() -> None:
    gateway = RemoteEndpoint(USER.id, USER.gateway, "node2", OTHER)
    there = RemoteEndpoint(USER.id, IPv4Address("10.0.1.6"), "node2", OTHER, "task2")
    assert plan(Fabric("node1", OWN, (USER,), (gateway, there))) == {
        Bridge("mbr-backend0", "02:42:0a:00:01:01", 1450),
        Vxlan("mvx-backend0", "mbr-backend0", 4097, OWN, 4789, 1450),
        LinkAddress("mbr-backend0", USER.gateway, 24),
        Neighbor("mbr-backend0", IPv4Address("10.0.1.6"), "02:42:0a:00:01:06"),
        Tunnel("mvx-backend0", "02:42:0a:00:01:06", OTHER),
    }


def made(*attachments: Attachment, fabric: Fabric, local: str | None = "172.18.0.2") -> SandboxPlan:
    address = IPv4Address(local) if local else None
    return plan_sandbox(Sandbox("task1", attachments), fabric, subnet=LOCAL, local_address=address)


ON_USER = Attachment(USER.id, IPv4Address("10.0.1.4"))
ON_INTERNAL = Attachment(INTERNAL.id, IPv4Address("10.0.2.4"))
ON_INGRESS = Attachment(ID, IPv4Address("10.0.0.5"))
ALL = replace(FABRIC, networks=(INTERNAL, USER, NETWORK))


def test_a_sandbox_has_the_ingress_network_first_and_the_way_out_last() -> None:
    plan = made(ON_USER, ON_INGRESS, fabric=ALL)
    assert [(item.name, str(item.address), item.bridge) for item in plan.interfaces] == [
        ("eth0", "10.0.0.5", "mbr-9qv2cn8t"),
        ("eth1", "10.0.1.4", "mbr-backend0"),
        ("eth2", "172.18.0.2", "mini_gwbridge"),
    ]
    assert plan.source == IPv4Address("10.0.0.5")
    assert plan.answers_via == NETWORK.gateway
    assert plan.nameserver == USER.gateway
    assert plan.hosts_address == ON_USER.address
    assert overlay_interfaces("task1", plan.addresses, ALL) == plan.interfaces[:2]


def test_a_task_without_networks_has_only_the_way_out() -> None:
    plan = made(fabric=FABRIC, local="172.18.0.9")
    assert [item.name for item in plan.interfaces] == ["eth0"]
    assert plan.source == plan.hosts_address == IPv4Address("172.18.0.9")
    assert (plan.answers_via, plan.nameserver, plan.vips) == (None, None, frozenset())


def test_a_task_on_internal_networks_only_has_no_way_out() -> None:
    plan = made(ON_INTERNAL, fabric=ALL, local=None)
    assert [item.name for item in plan.interfaces] == ["eth0"]
    assert (plan.gateway, plan.source) == (None, None)
    assert plan.nameserver == INTERNAL.gateway


@pytest.mark.parametrize(
    ("attachments", "ports", "expected"),
    [
        ((), (), True),
        ((ON_USER,), (), True),
        ((ON_INTERNAL,), (), False),
        ((ON_INTERNAL, ON_USER), (), True),
        ((ON_INTERNAL, ON_INGRESS), (), True),
        ((ON_INTERNAL,), (HostPort("tcp", 80, 80),), True),
    ],
)
def test_who_has_a_way_out(
    attachments: tuple[Attachment, ...], ports: tuple[HostPort, ...], expected: bool
) -> None:
    assert leads_out(Sandbox("t", attachments, ports), ALL) is expected


@given(st.permutations([ON_USER, ON_INTERNAL, ON_INGRESS]), st.integers(0, 3), st.booleans())
def test_the_plan_of_a_sandbox_is_found_again_from_its_addresses(
    attachments: list[Attachment], count: int, way_out: bool
) -> None:
    service = VirtualService(USER.id, "s", IPv4Address("10.0.1.100"), (IPv4Address("10.0.1.4"),))
    fabric = replace(ALL, services=(service,))
    plan = made(*attachments[:count], fabric=fabric, local="172.18.0.2" if way_out or not count else None)
    assert plan_found("task1", plan.addresses, fabric, subnet=LOCAL) == plan
    gateways = frozenset({plan.gateway} if plan.gateway else ())
    whole = FoundSandbox(plan.addresses, True, gateways, plan.answers_via)
    assert list(inner_differences("task1", plan, whole)) == []
    lacking = {item.kind for item in inner_differences("task1", plan, FoundSandbox(frozenset()))}
    assert lacking == {"address"} | ({"route"} if plan.gateway or plan.answers_via else set())


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


def test_a_living_sandbox_keeps_what_stays_and_gets_the_lowest_free_interfaces() -> None:
    local = IPv4Address("172.18.0.2")
    found = frozenset({("eth0", ON_USER.address), ("eth1", local)})

    def lead(*attachments: Attachment, way_out: IPv4Address | None = local) -> set[tuple[str, str]]:
        wanted = reattached(Sandbox("task1", attachments), found, ALL, subnet=LOCAL, local_address=way_out)
        return {(name, str(address)) for name, address in wanted}

    out = ("eth1", "172.18.0.2")
    assert lead(ON_USER, ON_INTERNAL) == {
        ("eth0", str(ON_USER.address)), out, ("eth2", str(ON_INTERNAL.address))
    }  # fmt: skip
    assert lead(ON_INTERNAL, way_out=None) == {("eth0", str(ON_INTERNAL.address))}
    assert lead() == {out}
    with pytest.raises(UnknownNetworkError, match="nowhere"):
        lead(ON_USER, Attachment("nowhere", IPv4Address("10.9.0.5")))
