"""The way out of the node: a local bridge that every sandbox is on, address translation and host-mode ports.

Which subnet the bridge has, and which address a sandbox, only the kernel remembers: both are chosen here and read back
after a restart. All that is not netlink is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from miniworker.network.api import OverlayNetwork
from miniworker.network.errors import NetworkError
from miniworker.network.names import (
    BRIDGE_PREFIX,
    CARRIER,
    GATEWAY_BRIDGE,
    TABLE,
    VXLAN_PREFIX,
    bridge_name,
    mac_of,
)
from miniworker.network.plan import VXLAN_PORT

POOL = tuple(IPv4Network(f"172.{second}.0.0/16") for second in range(18, 32))
"""Docker's own order of local address pools; 172.17.0.0/16 is left to its default bridge."""

_FORWARDING_WAS_OFF = "forwarding_was_off"


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the node that leads to a port of a sandbox on the local bridge."""

    protocol: str
    published_port: int
    address: IPv4Address
    target_port: int
    host_ip: IPv4Address | None = None
    """The only address of the node that leads there; None: all of them."""

    @property
    def key(self) -> tuple[str, int]:
        return self.protocol, self.published_port


def choose_subnet(used: Iterable[IPv4Network]) -> IPv4Network:
    """The first of the pool that overlaps nothing in use. Raises NetworkError."""
    taken = tuple(network for network in used if network.prefixlen)
    for subnet in POOL:
        if not any(subnet.overlaps(network) for network in taken):
            return subnet
    raise NetworkError(f"no free subnet for {GATEWAY_BRIDGE}: all of {POOL[0]} to {POOL[-1]} are in use")


def choose_address(subnet: IPv4Network, taken: frozenset[IPv4Address]) -> IPv4Address:
    """The lowest address above the bridge's own that nobody has. Raises NetworkError."""
    for address in subnet.hosts():
        if address != gateway_of(subnet) and address not in taken:
            return address
    raise NetworkError(f"no free address in {subnet} on {GATEWAY_BRIDGE}: {len(taken)} are in use")


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    return subnet.network_address + 1


def host_rules(
    subnet: IPv4Network,
    networks: Iterable[OverlayNetwork],
    forwards: Iterable[PortForward],
    *,
    forwarding_was_off: bool = False,
    vxlan_port: int = VXLAN_PORT,
) -> str:
    """The script that replaces our tables in the host's namespace, in one transaction; `subnet` is the local bridge's.

    What tasks send out of the node gets the node's address. The chains only ever drop what comes from our own bridges
    or is addressed to them or to our own addresses; every other packet passes untouched. That the host did not forward
    before us is remembered as an empty chain: the kernel forgets it together with the setting. Tunnel packets are not
    tracked: what is inside them is, and each connection in there would be another one of the tunnel's.
    """
    networks = sorted(networks, key=lambda network: network.id)
    memory = f"  chain {_FORWARDING_WAS_OFF} {{\n  }}\n" if forwarding_was_off else ""
    ports, ports_at = _host_ports(forwards)
    within = "".join(
        f'    iifname "{name}" oifname "{name}" accept\n'
        for name in (bridge_name(item.id) for item in networks)
    )
    named = [f'"{bridge_name(item.id)}" . {item.gateway}' for item in networks if not item.ingress]
    own = [gateway_of(subnet), *(item.node_address or item.gateway for item in networks)]
    leaving = [subnet, *(item.subnet for item in networks if not item.internal)]
    ours = f'{{ "{BRIDGE_PREFIX}*", "{GATEWAY_BRIDGE}" }}'
    tasks = f"{{ {', '.join(map(str, sorted(leaving)))} }}"
    sealed = _encrypted_only(networks, vxlan_port)
    return f"""\
add table ip {TABLE}
delete table ip {TABLE}
add table bridge {TABLE}
delete table bridge {TABLE}
table ip {TABLE} {{
{memory}\
  map host_ports {{
    type inet_proto . inet_service : ipv4_addr . inet_service
    {ports}
  }}
  map host_ports_at {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    {ports_at}
  }}
  chain untracked_in {{
    type filter hook prerouting priority raw; policy accept;
    udp dport {vxlan_port} notrack
  }}
  chain untracked_out {{
    type filter hook output priority raw; policy accept;
    udp dport {vxlan_port} notrack
  }}
  set nameservers {{
    type ifname . ipv4_addr
    {_elements(named)}
  }}
  set own {{
    type ipv4_addr
    {_elements([str(address) for address in own])}
  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname {ours} ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local dnat ip addr . port to ip daddr . meta l4proto . th dport map @host_ports_at
    fib daddr type local dnat ip addr . port to meta l4proto . th dport map @host_ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip addr . port to ip daddr . meta l4proto . th dport map @host_ports_at
    fib daddr type local dnat ip addr . port to meta l4proto . th dport map @host_ports
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "lo" accept
    ct state established,related accept
    iifname . ip daddr @nameservers meta l4proto {{ tcp, udp }} th dport 53 accept
    iifname "{BRIDGE_PREFIX}*" goto refuse
    ip daddr @own goto refuse
  }}
  chain refuse {{
    iifname != {ours} drop
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{within}\
    iifname "{BRIDGE_PREFIX}*" ct state != {{ established, related }} drop
    oifname {ours} ct status dnat accept
    oifname {ours} ct state established,related accept
    oifname {ours} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {ours} ip saddr 127.0.0.0/8 masquerade
    oifname {ours} ip saddr {tasks} ct status dnat masquerade
    oifname != {ours} ip saddr {tasks} masquerade
  }}
{sealed}\
}}
table bridge {TABLE} {{
  set gateways {{
    type ether_addr
    {_elements([mac_of(item.gateway) for item in networks if not item.ingress])}
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{VXLAN_PREFIX}*" ether saddr @gateways drop
  }}
}}
"""


def _encrypted_only(networks: Iterable[OverlayNetwork], vxlan_port: int) -> str:
    """Chains that let frames of encrypted networks in and out through the WireGuard interface only.

    A frame's VNI is behind the first word of VXLAN's header, which is behind UDP's 8 bytes.
    """
    vnis = ", ".join(str(network.vni) for network in networks if network.encrypted)
    if not vnis:
        return ""
    frames = f"udp dport {vxlan_port} @th,96,24 {{ {vnis} }}"
    return f"""\
  chain sealed_in {{
    type filter hook input priority raw; policy accept;
    iifname "{CARRIER}" {frames} accept
    iifname "{CARRIER}" drop
    {frames} drop
  }}
  chain sealed_out {{
    type filter hook output priority raw; policy accept;
    oifname != "{CARRIER}" {frames} drop
  }}
"""


def read_forwards(objects: Iterable[Mapping[str, Any]]) -> frozenset[PortForward]:
    """The host ports in our table, from nft's JSON of it."""
    maps = {item["map"]["name"]: item["map"].get("elem", ()) for item in objects if "map" in item}
    found = [((None, *key["concat"]), value["concat"]) for key, value in maps.get("host_ports", ())]
    found += [(tuple(key["concat"]), value["concat"]) for key, value in maps.get("host_ports_at", ())]
    return frozenset(
        PortForward(protocol, port, IPv4Address(address), target, IPv4Address(host_ip) if host_ip else None)
        for (host_ip, protocol, port), (address, target) in found
    )


def read_forwarding_was_off(objects: Iterable[Mapping[str, Any]]) -> bool:
    """Whether our table remembers that we turned forwarding on."""
    return any(item.get("chain", {}).get("name") == _FORWARDING_WAS_OFF for item in objects)


def _host_ports(forwards: Iterable[PortForward]) -> tuple[str, str]:
    """The elements of the two maps: ports of all addresses, and ports of one."""
    everywhere: list[str] = []
    at_one: list[str] = []
    for item in sorted(forwards, key=lambda item: item.key):
        leads = f"{item.protocol} . {item.published_port} : {item.address} . {item.target_port}"
        if item.host_ip is None:
            everywhere.append(leads)
        else:
            at_one.append(f"{item.host_ip} . {leads}")
    return _elements(everywhere), _elements(at_one)


def _elements(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"elements = {{ {joined} }}" if joined else ""
