"""Walks a packet through rules as nft lists them in JSON, and says where it comes to: pure.

Only what our own rules say is understood; anything else is told as such, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

from miniworker.network.api import Packet

Objects = Iterable[Mapping[str, Any]]

LED, REFUSED, DROPPED, PASSED, UNKNOWN = "led", "refused", "dropped", "passed", "unknown"

_SEEN_AS_NOTHING = frozenset({"counter", "log", "comment", "set", "notrack"})
"""Statements that decide nothing; `set` remembers the client."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a packet came."""

    verdict: str = PASSED
    """LED, REFUSED, DROPPED, PASSED (nothing here concerns it) or UNKNOWN."""
    targets: tuple[tuple[IPv4Address, int], ...] = ()
    """(address, port) of where it may be led to."""
    choice: str = ""
    """How one of several is chosen."""
    path: tuple[str, ...] = ()
    """The rules that concerned it, each as "map served: tcp . 80 -> tcp-80"."""

    def after(self, step: str) -> Walk:
        return replace(self, path=(step, *self.path))


class Rules:
    """The chains, maps and sets of one table."""

    def __init__(self, objects: Objects) -> None:
        self._rules: dict[str, list[list[Mapping[str, Any]]]] = {}
        self._elements: dict[str, Sequence[Any]] = {}
        for item in objects:
            if "rule" in item:
                self._rules.setdefault(item["rule"]["chain"], []).append(item["rule"].get("expr", []))
            for kind in ("map", "set"):
                if kind in item:
                    self._elements[item[kind]["name"]] = item[kind].get("elem", ())

    def walk(self, chain: str, packet: Packet) -> Walk:
        """From the first rule of a chain; PASSED when none decides."""
        for rule in self._rules.get(chain, ()):
            outcome = self._rule(rule, packet)
            if outcome is not None:
                return outcome.walk if outcome.walk.path else outcome.walk.after(f"chain {chain}")
        return Walk()

    def _rule(self, rule: Iterable[Mapping[str, Any]], packet: Packet) -> _Decided | None:
        """What the rule decides; None: nothing, the next one follows."""
        for statement in rule:
            ((kind, value),) = statement.items()
            match kind:
                case "match":
                    try:
                        if not self._matches(value, packet):
                            return None
                    except NotUnderstoodError as error:
                        return _Decided(Walk(UNKNOWN, choice=str(error)))
                case "vmap":
                    return self._vmap(value, packet)
                case "goto" | "jump":
                    return self._goto(value["target"], packet)
                case "dnat":
                    led = self._dnat(value, packet)
                    if led is None:
                        return None
                    return led
                case "drop":
                    return _Decided(Walk(DROPPED))
                case "reject":
                    return _Decided(Walk(REFUSED))
                case "accept" | "return":
                    return _Decided(Walk())
                case _ if kind not in _SEEN_AS_NOTHING:
                    return _Decided(Walk(UNKNOWN, choice=f"a statement {kind!r}"))
        return None

    def _matches(self, match: Mapping[str, Any], packet: Packet) -> bool:
        left, right = _value(match["left"], packet), match["right"]
        if isinstance(right, str) and right.startswith("@"):
            holds = left in {_plain(item) for item in self._elements.get(right[1:], ())}
        elif isinstance(right, Mapping):
            holds = left in {_plain(item) for item in right.get("set", ())}
        else:
            holds = bool(left in right if isinstance(right, list) else left == right)
        negated: bool = match["op"] == "!="
        return holds is not negated

    def _vmap(self, vmap: Mapping[str, Any], packet: Packet) -> _Decided | None:
        key, data = vmap["key"], vmap["data"]
        try:
            looked_up = _value(key, packet)
        except NotUnderstoodError as error:
            return _Decided(Walk(UNKNOWN, choice=str(error)))
        elements = self._elements.get(data[1:], ()) if isinstance(data, str) else data["set"]
        for element, verdict in elements:
            if not _holds(element, looked_up):
                continue
            target = (verdict.get("goto") or verdict.get("jump") or {}).get("target")
            if not target:
                return _Decided(Walk(UNKNOWN, choice=f"a verdict {verdict}"))
            decided = self._goto(target, packet)
            if isinstance(data, str):
                return _Decided(decided.walk.after(f"map {data[1:]}: {_words(element)} -> {target}"))
            chosen = decided.walk
            return _Decided(replace(chosen, choice="by the client's address (sticky)"))
        return None

    def _goto(self, target: str, packet: Packet) -> _Decided:
        walk = self.walk(target, packet)
        if walk.verdict is LED and target.count("-") > 1 and not walk.choice:  # a chain of one task
            walk = replace(walk, choice="it has had this client before (sticky)")
        return _Decided(walk if walk.path else walk.after(f"chain {target}"))

    def _dnat(self, dnat: Mapping[str, Any], packet: Packet) -> _Decided | None:
        address, port = dnat["addr"], dnat.get("port")
        if isinstance(address, str):
            return _Decided(Walk(LED, ((IPv4Address(address), int(port or packet.port)),)))
        key, data = address["map"]["key"], address["map"]["data"]
        if "numgen" in key:
            targets = tuple((IPv4Address(item[1]), int(port or packet.port)) for item in data["set"])
            return _Decided(Walk(LED, targets, "in turn"))
        looked_up = _value(key, packet)
        for element, value in self._elements.get(data[1:], ()):
            if _holds(element, looked_up):
                led, number = value["concat"]
                walk = Walk(LED, ((IPv4Address(led), int(number)),))
                return _Decided(walk.after(f"map {data[1:]}: {_words(element)} -> {led} . {number}"))
        return None


@dataclass(frozen=True, slots=True)
class _Decided:
    walk: Walk = field(default_factory=Walk)


class NotUnderstoodError(Exception):
    """A rule asks for something that is not known here; the text says what."""


def _value(expression: Any, packet: Packet) -> Any:
    """What an expression is for the packet."""
    if not isinstance(expression, Mapping):
        return expression
    ((kind, what),) = expression.items()
    match kind, what:
        case "concat", parts:
            return tuple(_value(part, packet) for part in parts)
        case "meta", {"key": "l4proto"}:
            return packet.protocol
        case "meta", {"key": "nfproto"}:
            return "ipv4"
        case "fib", {"result": "type"}:
            return "local"
        case "ct", {"key": "state"}:
            return "new"
        case "payload", {"protocol": "ip", "field": "saddr"}:
            return str(packet.client)
        case "payload", {"protocol": "ip", "field": "daddr"}:
            return str(packet.destination)
        case "payload", {"protocol": "th" | "tcp" | "udp" as name, "field": "dport"}:
            return packet.port if name in ("th", packet.protocol) else None
        case "payload", {"protocol": "ip6"}:
            return None
        case "jhash", {"expr": {"payload": {"field": "saddr"}}, "mod": mod}:
            return jhash(packet.client.packed, seed=what.get("seed", 0)) * mod >> 32
        case _:
            raise NotUnderstoodError(f"a condition on {kind} {what}")


def _plain(item: Any) -> Any:
    """An element of a set without what else is known of it."""
    return item["elem"]["val"] if isinstance(item, Mapping) and "elem" in item else item


def _holds(element: Any, value: Any) -> bool:
    match element:
        case {"concat": parts}:
            return bool(tuple(parts) == value)
        case {"range": [first, last]}:
            return bool(first <= value <= last)
        case _:
            return bool(_plain(element) == value)


def _words(element: Any) -> str:
    parts = element["concat"] if isinstance(element, Mapping) and "concat" in element else [element]
    return " . ".join(map(str, parts))


def jhash(data: bytes, *, seed: int) -> int:
    """The kernel's hash of at most 12 bytes on a little-endian machine (`include/linux/jhash.h`, lookup3)."""
    start = (0xDEADBEEF + len(data) + seed) & _WORD
    words = [int.from_bytes(data[place : place + 4], "little") for place in (0, 4, 8)]
    a, b, c = ((start + word) & _WORD for word in words)
    for first, second, turn in _FINAL_TURNS:
        state = [a, b, c]
        state[first] = ((state[first] ^ state[second]) - _turned(state[second], turn)) & _WORD
        a, b, c = state
    return c


_WORD = 0xFFFFFFFF
_FINAL_TURNS = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))
"""`__jhash_final`: c ^= b; c -= rol32(b, 14), and so on."""


def _turned(word: int, by: int) -> int:
    return ((word << by) | (word >> (32 - by))) & _WORD
