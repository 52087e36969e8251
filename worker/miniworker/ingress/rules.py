"""The kernel path as a script for nft: pure.

One transaction replaces the whole table, so a packet meets the old rules or the new ones. Only what is addressed to
this node itself is looked at. A new connection goes to the next task in turn; a port without tasks refuses at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from miniworker.ingress.table import Port
from miniworker.network.names import INGRESS_TABLE


def ingress_rules(ports: Iterable[Port]) -> str:
    """The script that replaces the table of published ports."""
    ordered = sorted(ports, key=lambda port: port.key)
    served = [port for port in ordered if port.backends]
    chains = "".join(_chain(port) for port in served)
    jumps = _elements(f"{_match(port)} : goto {_name(port)}" for port in served)
    refused = _elements(_match(port) for port in ordered if not port.backends)
    return f"""\
add table inet {INGRESS_TABLE}
delete table inet {INGRESS_TABLE}
table inet {INGRESS_TABLE} {{
{chains}\
  map served {{
    type inet_proto . inet_service : verdict
    {jumps}
  }}
  set refused {{
    type inet_proto . inet_service
    {refused}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 fib daddr type local meta l4proto . th dport vmap @served
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ct state new meta l4proto tcp meta l4proto . th dport @refused reject with tcp reset
    meta l4proto udp meta l4proto . th dport @refused reject
  }}
}}
"""


def _chain(port: Port) -> str:
    protocol, target = port.key.protocol, port.target_port
    if len(port.backends) == 1:
        choice = str(port.backends[0])
    else:
        numbered = ", ".join(f"{number} : {address}" for number, address in enumerate(port.backends))
        choice = f"numgen inc mod {len(port.backends)} map {{ {numbered} }}"
    return f"""\
  chain {_name(port)} {{
    meta l4proto {protocol} dnat ip to {choice} : {target}
  }}
"""


def _name(port: Port) -> str:
    return f"{port.key.protocol}-{port.key.port}"


def _match(port: Port) -> str:
    return f"{port.key.protocol} . {port.key.port}"


def _elements(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"elements = {{ {joined} }}" if joined else ""
