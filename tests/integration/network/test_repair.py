"""Somebody changes the kernel behind our back: each difference is named, repaired and counted, and traffic goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniworker.network import nfnetlink
from miniworker.network.namespaces import in_scratch_namespace
from miniworker.network.nft import Canonical
from miniworker.network.rules import SANDBOX_TABLES, read_tables
from miniworker.network.sandbox_tables import change_vips, new_tables
from miniworker.network.vips import Vip, VipDelta
from support.hosts import Lab
from support.overlay_site import Site, network, virtual

pytestmark = pytest.mark.root

A = network(1)
BRIDGE, TUNNEL = f"mbr-{A.id[:8]}", f"mvx-{A.id[:8]}"
HERE, THERE = "hereaaaaaaaaaaaa", "thereaaaaaaaaaaa"
PORT = f"mve-{HERE[:8]}"
SERVICE = virtual(A, 100, A.subnet[11], A.subnet[12])
FAR_MAC = "02:42:0a:00:01:0c"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab(f"r{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site = Site(lab, (A,), (SERVICE,))
        try:
            for name in ("core-01", "core-02"):
                site.add_node(name)
            site.spread()
            site.start_task("core-01", HERE, A.subnet[11])
            site.start_task("core-02", THERE, A.subnet[12])
            site.spread()
            yield site
        finally:
            site.close()


def works(site: Site) -> None:
    assert {answer.task for answer in site.ask(HERE, SERVICE.address, count=4)} == {HERE, THERE}
    assert site.ask(THERE, A.subnet[11])[0].task == HERE
    site.run(HERE, ["busybox", "ping", "-c", "1", "-W", "3", site.lab.client.address])


@pytest.mark.parametrize(
    ("where", "command", "expected"),
    [
        ("core-01", f"bridge fdb del {FAR_MAC} dev {TUNNEL} self", {("forwarding entry", True)}),
        ("core-01", f"bridge fdb del {FAR_MAC} dev {TUNNEL} master", {("forwarding entry", True)}),
        ("core-01", f"bridge fdb del 02:42:0a:00:01:0b dev {PORT} master", {("forwarding entry", True)}),
        ("core-01", f"ip neigh del {A.subnet[12]} dev {BRIDGE}", {("neighbor entry", True)}),
        (
            "core-01",
            f"ip neigh add {A.subnet[77]} lladdr 02:42:0a:00:01:4d dev {BRIDGE} nud permanent",
            {("neighbor entry", False)},
        ),
        ("core-01", f"ip address del {A.gateway}/24 dev {BRIDGE}", {("address", True)}),
        ("core-01", f"ip link set {BRIDGE} down", {("bridge", True), ("bridge", False)}),
        ("core-01", f"ip link del {BRIDGE}", {("bridge", True), ("interface", True)}),
        ("core-01", f"ip link del {TUNNEL}", {("tunnel device", True)}),
        ("core-01", f"ip link set {PORT} nomaster", {("interface", True)}),
        ("core-01", f"ip link del {PORT}", {("interface", True), ("address", True)}),
        ("core-01", "ip link del mini_gwbridge", {("bridge", True), ("interface", True)}),
        ("core-01", "nft delete table ip mini", {("rules", True)}),
        ("core-01", "nft flush chain ip mini forward", {("rules", True)}),
        ("core-01", "nft delete table bridge mini", {("rules", True)}),
        ("core-01", "sysctl -w net.ipv4.ip_forward=0", {("forwarding", True)}),
        (HERE, "nft delete table ip mini", {("rules", True)}),
        (HERE, f"nft flush chain ip mini vip-{SERVICE.address}", {("rules", True)}),
        (HERE, "nft add chain ip mini stranger", {("rules", False)}),
        (HERE, f"ip address del {A.subnet[11]}/24 dev eth0", {("address", True)}),
        (HERE, "ip route del default", {("route", True)}),
    ],
)
def test_what_differs_is_named_repaired_and_counted(
    site: Site, where: str, command: str, expected: set[tuple[str, bool]]
) -> None:
    driver = site.drivers["core-01"]
    assert driver.call("repair") == ()
    site.run(where, command.split())
    different = driver.call("verify")
    assert {(item.kind, item.missing) for item in different} >= expected
    if where == HERE:
        assert {item.task_id for item in different} == {HERE}
    before = driver.call("repairs")
    assert set(driver.call("repair")) == set(different)
    after = driver.call("repairs")
    for kind, _ in expected:
        assert after[kind] > before.get(kind, 0)
    assert driver.call("verify") == ()
    works(site)


def test_what_a_task_has_added_itself_is_left_alone(site: Site) -> None:
    site.run(HERE, ["ip", "route", "add", "192.0.2.0/24", "via", str(A.subnet[12])])
    site.run(HERE, ["nft", "add", "table", "ip", "own"])
    try:
        assert site.drivers["core-01"].call("repair") == ()
        site.serve()
        site.serve(SERVICE)
        assert site.drivers["core-01"].call("repair") == ()
        assert "table ip own" in site.run(HERE, ["nft", "list", "tables"]).stdout
    finally:
        site.run(HERE, ["ip", "route", "del", "192.0.2.0/24"])
        site.run(HERE, ["nft", "delete", "table", "ip", "own"])


def test_an_agent_that_died_while_it_made_a_sandbox_leaves_nothing(site: Site) -> None:
    """All is there, but not the loopback interface, which comes last."""
    site.attach("core-01", "halfaaaaaaaaaaaa", A.subnet[30])
    half = site.tasks.pop("halfaaaaaaaaaaaa")
    site.run("core-01", ["nsenter", f"--net={half.netns}", "ip", "link", "set", "lo", "down"])
    site.restart("core-01")
    assert not half.netns.exists()
    with pytest.raises(subprocess.CalledProcessError):
        site.run("core-01", ["ip", "link", "show", f"mve-{half.id[:8]}"])
    works(site)


def addresses() -> st.SearchStrategy[IPv4Address]:
    return st.integers(1, 6).map(lambda number: A.subnet[number])


def vips() -> st.SearchStrategy[list[Vip]]:
    backends = st.lists(addresses(), max_size=4, unique=True).map(tuple)
    return st.lists(st.builds(Vip, addresses(), backends), max_size=4, unique_by=lambda vip: vip.address)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(vips(), min_size=2, max_size=4))
def test_changes_lead_to_the_same_rules_as_making_them_anew(story: list[list[Vip]]) -> None:
    def follow() -> Canonical:
        nfnetlink.commit(new_tables(story[0], ingress=False))
        for old, new in pairwise(story):
            nfnetlink.commit(change_vips(VipDelta.of(old, new)))
        return read_tables(SANDBOX_TABLES)

    def make() -> Canonical:
        nfnetlink.commit(new_tables(story[-1], ingress=False))
        return read_tables(SANDBOX_TABLES)

    assert in_scratch_namespace(follow) == in_scratch_namespace(make)
