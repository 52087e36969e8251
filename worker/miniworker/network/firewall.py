"""Firewalls of others on this node, as values: pure.

A packet that is forwarded passes the chains of every table that hooks into forwarding, and any of them can drop it:
that our table accepts it does not count in another. Docker documents a chain for this, DOCKER-USER, which gets our
rules as `iptables -I DOCKER-USER -i mbr-+ -j ACCEPT` would write them. Of others that drop, the log tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from miniworker.network.names import BRIDGE_PREFIX, GATEWAY_BRIDGE, INGRESS_TABLE, TABLE

Objects: TypeAlias = Iterable[Mapping[str, Any]]
"""What nft lists as JSON."""

OWN_TABLES = frozenset({TABLE, INGRESS_TABLE})

DOCKER_TABLE = ("ip", "filter")
DOCKER_CHAIN = "DOCKER-USER"

INTERFACES = (f"{BRIDGE_PREFIX}*", GATEWAY_BRIDGE)

_ALLOWED = frozenset((key, name) for key in ("iifname", "oifname") for name in INTERFACES)
"""What others have to let through: all that enters or leaves by our bridges. Our own table drops the unpublished."""

_FINAL = frozenset({"accept", "drop", "reject", "return", "goto"})


@dataclass(frozen=True, slots=True, order=True)
class BaseChain:
    """A chain that the kernel enters by itself."""

    family: str
    table: str
    name: str
    kind: str
    """"filter" or "nat" """
    hook: str
    policy: str


def base_chains(objects: Objects) -> frozenset[BaseChain]:
    """Those of others for IPv4."""
    return frozenset(
        BaseChain(
            chain["family"],
            chain["table"],
            chain["name"],
            chain["type"],
            chain["hook"],
            chain.get("policy", ""),
        )
        for chain in _of_kind(objects, "chain")
        if "hook" in chain and chain["family"] in ("ip", "inet") and chain["table"] not in OWN_TABLES
    )


def has_docker_chain(objects: Objects) -> bool:
    return any(
        (chain["family"], chain["table"]) == DOCKER_TABLE and chain["name"] == DOCKER_CHAIN
        for chain in _of_kind(objects, "chain")
    )


def translates_for_others(chains: Iterable[BaseChain]) -> bool:
    """Whether somebody else relies on forwarding: who translates addresses of what leaves does."""
    return any(chain.kind == "nat" and chain.hook == "postrouting" for chain in chains)


def docker_script(table: Objects) -> str:
    """What puts our rules into Docker's chain, after the administrator's own; empty: they are there."""
    rules = _rules(table, DOCKER_CHAIN)
    end = next((place for place, rule in enumerate(rules) if _is_final(rule, "return")), len(rules))
    if {allowed for rule in rules[:end] if (allowed := _own(rule))} == _ALLOWED:
        return ""
    where = (
        f"insert rule {_CHAIN} handle {rules[end]['handle']}" if end < len(rules) else f"add rule {_CHAIN}"
    )
    additions = [f'{where} {key} "{name}" counter accept\n' for key, name in sorted(_ALLOWED)]
    return docker_removal(table) + "".join(additions)


def docker_removal(table: Objects) -> str:
    """What takes our rules out of Docker's chain; empty: there are none."""
    own = [rule for rule in _rules(table, DOCKER_CHAIN) if _own(rule)]
    return "".join(f"delete rule {_CHAIN} handle {rule['handle']}\n" for rule in own)


def drops_ours(chain: BaseChain, table: Objects) -> bool:
    """Whether the chain drops what nothing in it allows, and nothing in it allows all of ours."""
    table = list(table)
    rules = _rules(table, chain.name)
    ends = next((verdict for rule in rules for verdict in ("drop", "reject") if _is_final(rule, verdict)), "")
    if chain.policy != "drop" and not ends:
        return False
    allowed = set(_allowed(table, chain.name, seen=frozenset()))
    return not all(any(_covers(item, wanted) for item in allowed) for wanted in _ALLOWED)


_CHAIN = f"{' '.join(DOCKER_TABLE)} {DOCKER_CHAIN}"


def _allowed(table: Objects, chain: str, *, seen: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(which interface, name) of the rules that accept all of an interface, also in chains that are always entered."""
    for rule in _rules(table, chain):
        yield from _accepted(rule)
        verdicts = _verdicts(rule)
        if _matches(rule):
            continue
        for verdict in ("jump", "goto"):
            target = (verdicts.get(verdict) or {}).get("target", "")
            if target and target not in seen:
                yield from _allowed(table, target, seen=seen | {chain})
        if _FINAL & verdicts.keys():
            return


def _accepted(rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "accept" not in _verdicts(rule):
        return
    matches = _matches(rule)
    if not matches:
        yield from (("iifname", "*"), ("oifname", "*"))
    elif len(matches) == 1 and (match := matches[0].get("match")) and match["op"] in ("==", "in"):
        key = match["left"].get("meta", {}).get("key") if isinstance(match["left"], dict) else None
        right = match["right"]
        names = right.get("set", ()) if isinstance(right, dict) else (right,)
        if key in ("iifname", "oifname"):
            yield from ((key, name) for name in names if isinstance(name, str))


def _own(rule: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a rule of ours allows; None for a rule of somebody else."""
    accepted = tuple(_accepted(rule))
    return accepted[0] if len(accepted) == 1 and accepted[0] in _ALLOWED else None


def _covers(item: tuple[str, str], wanted: tuple[str, str]) -> bool:
    (key, pattern), (wanted_key, name) = item, wanted
    return key == wanted_key and (
        pattern == name or (pattern.endswith("*") and name.startswith(pattern.removesuffix("*")))
    )


def _is_final(rule: Mapping[str, Any], verdict: str) -> bool:
    return not _matches(rule) and verdict in _verdicts(rule)


def _matches(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conditions of a rule; what is neither verdict nor statement counts as one (xtables' own, for example)."""
    return [
        item
        for item in rule.get("expr", ())
        if not item.keys() & {*_FINAL, "jump", "counter", "log", "comment"}
    ]


def _verdicts(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for item in rule.get("expr", ()) for key, value in item.items() if key in {*_FINAL, "jump"}
    }


def _rules(table: Objects, chain: str) -> Sequence[Mapping[str, Any]]:
    return [rule for rule in _of_kind(table, "rule") if rule["chain"] == chain]


def _of_kind(objects: Objects, kind: str) -> Iterator[Mapping[str, Any]]:
    return (item[kind] for item in objects if kind in item)
