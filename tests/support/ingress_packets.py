"""Sends packets through the script of published ports, as the kernel would, to test what it means and not its text.

Knows the statements that the script has and fails on any other. What sticky ports have learned is kept from one script
to the next as the kernel keeps it: a set that the next script removes is forgotten.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

REFUSED, PASSED = "refused", "passed"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a connection, addressed to this node."""

    protocol: str = "tcp"
    port: int = 80
    source: str = "10.77.0.99"
    destination: str = "10.77.0.11"
    to_this_node: bool = True


@dataclass(slots=True)
class Table:
    """The kernel's table; `load` replaces it with a script."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    _turns: int = 0

    def load(self, script: str) -> None:
        self.chains, self.maps = {}, {}
        for name in re.findall(r"^delete set inet \S+ (\S+)$", script, re.M):
            del self.sets[name]
        for kind, name, body in re.findall(r"^  (chain|map|set) (\S+) \{\n(.*?)^  \}", script, re.M | re.S):
            lines = [line.strip() for line in body.splitlines() if line.strip()]
            if kind == "chain":
                self.chains[name] = [line for line in lines if not line.startswith("type ")]
            elif kind == "map":
                self.maps[name] = _pairs(" ".join(lines))
            else:
                self.sets.setdefault(name, set())

    def send(self, packet: Packet) -> str:
        """`<address>:<port>` of the task it is led to, "refused", or "passed" on to the node's own sockets."""
        led = self._chain("prerouting", packet)
        return led or self._chain("input", packet) or PASSED

    def _chain(self, name: str, packet: Packet) -> str:
        for rule in self.chains[name]:
            outcome = self._rule(rule, packet)
            if outcome == "return":
                break
            if outcome.startswith("goto "):
                return self._chain(outcome.removeprefix("goto "), packet)
            if outcome:
                return outcome
        return ""

    def _rule(self, rule: str, packet: Packet) -> str:
        rest = rule
        while rest:
            for pattern, apply in _STATEMENTS:
                if found := re.match(pattern, rest):
                    rest = rest[found.end() :].strip()
                    outcome = apply(self, packet, *found.groups())
                    break
            else:
                raise AssertionError(f"unknown statement: {rest}")
            if outcome is None:  # it does not match
                return ""
            if outcome:
                return outcome
        return ""

    def next_turn(self) -> int:
        self._turns += 1
        return self._turns - 1


@lru_cache
def _pairs(text: str) -> dict[str, str]:
    inner = re.search(r"\{ (.*) \}", text)
    items = inner[1].split(", ") if inner else []
    return {key.strip(): value.strip() for key, _, value in (item.partition(" : ") for item in items)}


def _family(packet: Packet) -> str:
    return "ip" if ip_address(packet.source).version == 4 else "ip6"


def _look_up(table: Table, packet: Packet, name: str) -> str | None:
    return table.maps[name].get(f"{packet.protocol} . {packet.port}")


def _bucket(table: Table, packet: Packet, size: str, elements: str) -> str:
    number = zlib.crc32(packet.source.encode()) % int(size)
    return _verdicts(elements)[number]


@lru_cache
def _verdicts(elements: str) -> list[str]:
    """Of each bucket, from the ranges of them."""
    verdicts: list[str] = []
    for key, verdict in _pairs(f"{{ {elements} }}").items():
        first, last = map(int, key.split("-"))
        assert first == len(verdicts), "the ranges follow each other"
        verdicts += [verdict] * (last - first + 1)
    return verdicts


def _translate(table: Table, packet: Packet, choice: str, port: str) -> str:
    if found := re.match(r"numgen inc mod (\d+) map (\{ .* \})", choice):
        choice = _pairs(found[2])[str(table.next_turn() % int(found[1]))]
    return f"{choice}:{port}"


def _update(table: Table, packet: Packet, name: str) -> str:
    table.sets[name].add(packet.source)
    return ""


def _when(holds: bool) -> str | None:
    return "" if holds else None


_STATEMENTS = (
    (r"meta nfproto ipv4", lambda table, packet: _when(_family(packet) == "ip")),
    (r"fib daddr type local", lambda table, packet: _when(packet.to_this_node)),
    (r"meta l4proto \. th dport vmap @(\S+)", _look_up),
    (r"ct state new", lambda table, packet: ""),
    (r"meta l4proto (tcp|udp)(?! \.)", lambda table, packet, name: _when(packet.protocol == name)),
    (r"reject( with tcp reset)?", lambda table, packet, how: REFUSED),
    (
        r"(ip6?) daddr (!= )?(\S+)",
        lambda table, packet, family, differs, address: _when(
            _family(packet) == family and (packet.destination != address) == bool(differs)
        ),
    ),
    (r"ip saddr @(\S+)", lambda table, packet, name: _when(packet.source in table.sets[name])),
    (r"update @(\S+) \{ ip saddr \}", _update),
    (r"jhash ip saddr mod (\d+) seed \S+ vmap \{ (.*) \}", _bucket),
    (r"dnat ip to (.*) : (\d+)", _translate),
    (r"(goto \S+|return)", lambda table, packet, verdict: verdict),
)
