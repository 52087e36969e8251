"""The kernel path as a script for nft: pure.

One transaction replaces the whole table, so a packet meets the old rules or the new ones. Only what is addressed to
this node itself is looked at. A new connection goes to the next task in turn; a port without tasks refuses at once.

A sticky port remembers for each task which clients it has had, in a set that outlives the transaction. A client that
no set knows goes where its address says: of a fixed number of buckets each belongs to the task with the highest weight
for it, the same on every node, and a task that comes or goes moves only its own share.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128
from ipaddress import IPv4Address
from itertools import groupby
from typing import Any

from miniworker.ingress.rotation import MAX_REMEMBERED
from miniworker.ingress.table import Port
from miniworker.network.names import INGRESS_TABLE

STICKY_HOURS = 3
"""Since a client's last new connection; Kubernetes' default for affinity by client address."""

_BUCKETS = 1024
"""Of client addresses; with ten tasks each gets its tenth within a few percent."""

_SEED = 0x6D696E69
"""Of the hash of client addresses: the same on every node, so that a client finds its task through any of them."""

_MEMORY = "had-"
"""Begins the names of the sets that outlive a transaction."""

_MAPS = frozenset({"map served", "map refused"})


@dataclass(frozen=True, slots=True)
class Named:
    """What the table has by name, each as "chain tcp-80": to replace the table, this has to be known."""

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()


NOTHING = Named()


def ingress_rules(ports: Iterable[Port], before: Named = NOTHING) -> str:
    """The script that replaces a table in which there is `before`."""
    ordered = sorted(
        (port for port in ports if port.in_kernel or not port.backends), key=lambda item: item.key
    )
    served = [port for port in ordered if port.backends]
    refused = [port for port in ordered if not port.backends]
    kept = _memories(served)
    stale = [*sorted(before.sets - kept.keys()), *sorted(before.chains)]
    removals = "".join(f"delete {_in_table(item)}\n" for item in stale)
    memories = "".join(kept[name] for name in sorted(kept))
    chains = "".join(_chains(port) for port in served) + "".join(_refusal(port) for port in refused)
    jumps = _elements(f"{_match(port)} : goto {_name(port)}" for port in served)
    refusals = _elements(f"{_match(port)} : goto {_refusal_name(port)}" for port in refused)
    return f"""\
add table inet {INGRESS_TABLE}
flush table inet {INGRESS_TABLE}
{removals}\
table inet {INGRESS_TABLE} {{
{memories}\
{chains}\
  chain refuse {{
    ct state new meta l4proto tcp reject with tcp reset
    meta l4proto udp reject
  }}
  map served {{
    type inet_proto . inet_service : verdict
    {jumps}
  }}
  map refused {{
    type inet_proto . inet_service : verdict
    {refusals}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 fib daddr type local meta l4proto . th dport vmap @served
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    meta l4proto . th dport vmap @refused
  }}
}}
"""


def named(ports: Iterable[Port]) -> Named:
    """What the table has after `ingress_rules` of these ports."""
    ordered = [port for port in ports if port.in_kernel or not port.backends]
    served = [port for port in ordered if port.backends]
    chains = {_name(port) for port in served}
    chains.update(
        _task_name(port, item)
        for port in served
        if port.sticky and len(port.backends) > 1
        for item in port.backends
    )
    chains.update(_refusal_name(port) for port in ordered if not port.backends)
    chains |= {"refuse", "prerouting", "input"}
    return Named(frozenset(f"chain {name}" for name in chains), _MAPS | _memories(served).keys())


def read_named(objects: Iterable[Mapping[str, Any]]) -> Named:
    """The same, from nft's JSON of the table."""
    found = [(kind, str(value.get("name", ""))) for item in objects for kind, value in item.items()]
    return Named(
        frozenset(f"chain {name}" for kind, name in found if kind == "chain"),
        frozenset(f"{kind} {name}" for kind, name in found if kind in ("set", "map")),
    )


def _chains(port: Port) -> str:
    """The port's own, to which its packets come, and what that needs."""
    here = "" if port.host_ip is None else f"    ip daddr != {port.host_ip} return\n"
    if port.sticky and len(port.backends) > 1:
        return _task_chains(port) + f"  chain {_name(port)} {{\n{here}{_sticky_choice(port)}  }}\n"
    if len(port.backends) == 1:
        choice = str(port.backends[0])
    else:
        numbered = ", ".join(f"{number} : {address}" for number, address in enumerate(port.backends))
        choice = f"numgen inc mod {len(port.backends)} map {{ {numbered} }}"
    remember = f"    update @{_memory(port, port.backends[0])} {{ ip saddr }}\n" if port.sticky else ""
    return f"  chain {_name(port)} {{\n{here}{remember}    {_translate(port, choice)}\n  }}\n"


def _task_chains(port: Port) -> str:
    return "".join(
        f"""\
  chain {_task_name(port, address)} {{
    update @{_memory(port, address)} {{ ip saddr }}
    {_translate(port, str(address))}
  }}
"""
        for address in port.backends
    )


def _sticky_choice(port: Port) -> str:
    known = "".join(
        f"    ip saddr @{_memory(port, address)} goto {_task_name(port, address)}\n"
        for address in port.backends
    )
    owners = _owners(port.backends)
    ranges: list[str] = []
    for address, run in groupby(range(_BUCKETS), key=lambda bucket: owners[bucket]):
        numbers = list(run)
        ranges.append(f"{numbers[0]}-{numbers[-1]} : goto {_task_name(port, address)}")
    return f"{known}    jhash ip saddr mod {_BUCKETS} seed {_SEED:#x} vmap {{ {', '.join(ranges)} }}\n"


@lru_cache(maxsize=256)
def _owners(backends: tuple[IPv4Address, ...]) -> tuple[IPv4Address, ...]:
    """Of each bucket the task with the highest weight for it."""
    rows = zip(*(_weights(address) for address in backends), strict=True)
    return tuple(backends[row.index(max(row))] for row in rows)


def _weights(address: IPv4Address) -> tuple[int, ...]:
    """One for each bucket."""
    return struct.unpack(f"!{_BUCKETS}Q", shake_128(address.packed).digest(8 * _BUCKETS))


def _translate(port: Port, choice: str) -> str:
    return f"meta l4proto {port.key.protocol} dnat ip to {choice} : {port.target_port}"


def _memories(served: Iterable[Port]) -> dict[str, str]:
    """The sets of the sticky ports: by name as in `Named`, how each is made."""
    return {
        f"set {_memory(port, address)}": f"""\
  set {_memory(port, address)} {{
    type ipv4_addr
    size {MAX_REMEMBERED}
    flags dynamic,timeout
    timeout {STICKY_HOURS}h
  }}
"""
        for port in served
        if port.sticky
        for address in port.backends
    }


def _refusal(port: Port) -> str:
    if port.host_ip is None:
        return ""
    family = "ip" if isinstance(port.host_ip, IPv4Address) else "ip6"
    return f"  chain {_refusal_name(port)} {{\n    {family} daddr {port.host_ip} goto refuse\n  }}\n"


def _refusal_name(port: Port) -> str:
    return "refuse" if port.host_ip is None else f"refuse-{_name(port)}"


def _memory(port: Port, address: IPv4Address) -> str:
    return f"{_MEMORY}{_task_name(port, address)}"


def _task_name(port: Port, address: IPv4Address) -> str:
    return f"{_name(port)}-{address}"


def _name(port: Port) -> str:
    return f"{port.key.protocol}-{port.key.port}"


def _match(port: Port) -> str:
    return f"{port.key.protocol} . {port.key.port}"


def _in_table(item: str) -> str:
    kind, _, name = item.partition(" ")
    return f"{kind} inet {INGRESS_TABLE} {name}"


def _elements(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"elements = {{ {joined} }}" if joined else ""
