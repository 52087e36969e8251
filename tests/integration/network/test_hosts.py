"""Hosts that are set up otherwise than we would: strict filtering, and firewalls that drop what is forwarded."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from support.cluster import eventually
from support.data_plane_driver import LOG
from support.hosts import Host, Lab
from support.ingress_site import SUBNET, Site, ask, published

pytestmark = pytest.mark.root

PORT, TARGET = 4567, 8000
TASK = "task1aaaaaaaaaaaaaaaaaaaa"

DOCKER = """
table ip filter {
  chain DOCKER-USER {
    iifname "eth9" counter drop
    counter return
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    counter jump DOCKER-USER
  }
}
"""

STRANGER = """
table inet strict {
  chain routed {
    type filter hook forward priority 10; policy drop;
  }
}
"""


@pytest.fixture
def site() -> Iterator[Site]:
    """Two nodes that filter by reverse path and forward nothing by default; the task is on the second."""
    with Lab(f"h{os.getpid() % 10000}", ["core-01", "core-02"]) as lab:
        site = Site(lab)
        for host in (lab["core-01"], lab["core-02"]):
            strict = [f"net.ipv4.conf.{name}.rp_filter=1" for name in ("all", "default", "eth0")]
            host.run(["sysctl", "-w", "net.ipv4.ip_forward=0", "net.ipv4.conf.default.arp_ignore=8", *strict])
        try:
            yield site
        finally:
            site.close()


def start(site: Site) -> None:
    for number, name in enumerate(("core-01", "core-02"), 1):
        site.add_node(name, number)
    site.spread_fabric()
    site.start_task("core-02", TASK, SUBNET[10], port=TARGET)
    site.spread_fabric()
    for node in site.nodes.values():
        table = [
            published(PORT, TARGET, {TASK: SUBNET[10]}, protocol=protocol) for protocol in ("tcp", "udp")
        ]
        assert not node.apply(*table).problems


def served(site: Site) -> bool:
    try:
        for name in site.nodes:
            (answer,) = ask(site.lab.client, site.lab[name].address, PORT)
            assert (answer.task, answer.peer) == (TASK, site.lab.client.address)
    except subprocess.CalledProcessError:
        return False
    return True


def test_strict_reverse_path_filtering_of_the_host(site: Site) -> None:
    start(site)
    for host in (site.lab["core-01"], site.lab["core-02"]):
        assert host.run(["sysctl", "-n", "net.ipv4.conf.all.rp_filter"]).stdout == "1\n"
        for protocol in ("tcp", "udp"):
            (answer,) = ask(site.lab.client, host.address, PORT, protocol=protocol)
            assert (answer.task, answer.peer) == (TASK, site.lab.client.address)
            assert ask(host, "127.0.0.1", PORT, protocol=protocol)[0].task == TASK
    # Out of the node, with the task's ingress address as source.
    netns = site.nodes["core-02"].netns_dir / TASK
    ping = ["nsenter", f"--net={netns}", "busybox", "ping", "-c", "1", "-W", "3", site.lab.client.address]
    site.lab["core-02"].run(ping)


def test_dockers_chain_gets_our_rules_keeps_them_and_is_left_as_it_was(site: Site) -> None:
    hosts = [site.lab["core-01"], site.lab["core-02"]]
    for host in hosts:
        _nft(host, DOCKER)
    before = _chain(hosts[0])
    start(site)
    eventually(lambda: served(site), "the port is served past Docker's firewall")
    rules = _chain(hosts[0])
    assert rules.index('iifname "eth9"') < rules.index('iifname "mbr-*"') < rules.index("return")
    assert "-i mini_gwbridge -j ACCEPT" in hosts[0].run(["iptables-nft", "-S", "DOCKER-USER"]).stdout
    for host in hosts:
        _nft(host, "flush chain ip filter DOCKER-USER")
    eventually(lambda: served(site), "the rules are back")
    assert "firewall of this node" not in hosts[0].log(LOG)
    _nft(hosts[0], f"flush chain ip filter DOCKER-USER\n{DOCKER}")
    eventually(lambda: "mbr-*" in _chain(hosts[0]), "the rules are back")
    for node in site.nodes.values():
        node.driver.call("clear")
    _nft(hosts[0], "flush chain ip filter FORWARD")
    assert _chain(hosts[0]) == before


def test_another_firewall_that_drops_is_named_in_the_log(site: Site) -> None:
    start(site)
    host = site.lab["core-01"]
    assert served(site)
    assert "firewall" not in host.log(LOG)
    _nft(host, STRANGER)
    eventually(lambda: "chain=routed" in host.log(LOG), "the dropping chain is named")
    (line,) = [line for line in host.log(LOG).splitlines() if "routed" in line]
    assert 'table="inet strict"' in line
    assert 'interfaces="mbr-*, mini_gwbridge"' in line
    assert not served(site)
    allowed = '{ "mbr-*", "mini_gwbridge" }'
    _nft(
        host,
        "".join(f"add rule inet strict routed {key} {allowed} accept\n" for key in ("iifname", "oifname")),
    )
    assert served(site)


def test_forwarding_stays_on_for_who_came_later_and_relies_on_it(site: Site) -> None:
    start(site)
    first, second = (site.lab[name] for name in ("core-01", "core-02"))
    _nft(first, "table ip nat { chain out { type nat hook postrouting priority srcnat; }\n}")
    for node in site.nodes.values():
        node.driver.call("clear")
    assert first.run(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout == "1\n"
    assert second.run(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout == "0\n"


def _nft(host: Host, script: str) -> None:
    host.run(["nft", "-f", "-"], input=script)


def _chain(host: Host) -> str:
    return host.run(["nft", "--stateless", "list", "chain", "ip", "filter", "DOCKER-USER"]).stdout
