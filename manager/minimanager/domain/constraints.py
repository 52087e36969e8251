"""Placement constraints: what a service asks of the nodes that may have its tasks.

`KEY OPERATOR VALUE`, all of which must hold. Keys and the operators `==` and `!=` are Swarm's (swarmkit
`manager/constraint`), and as there, values are compared without regard to case. Beyond them: `KEY in (A,B)`, `KEY<N`
and `KEY>N` for labels that are numbers, and `KEY=~PATTERN` for a part that matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from minicommon.errors import InvalidArgumentError

from minimanager.domain.objects import Node, NodeDescription, NodeRole, NodeStatus
from minimanager.domain.pattern import pattern

NODE_LABEL, ENGINE_LABEL = "node.labels.", "engine.labels."

KEYS = (
    "node.id",
    "node.hostname",
    "node.ip",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    f"{NODE_LABEL}LABEL",
    f"{ENGINE_LABEL}LABEL",
)

_SHAPE = re.compile(r"\s*([^\s=!<>]+)\s*(==|!=|=~|<|>|\s[iI][nN]\b)\s*(.*?)\s*", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})", re.ASCII)

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Go's names for what `uname -m` says."""


class Operator(Enum):
    IS = "=="
    IS_NOT = "!="
    MATCHES = "=~"
    LESS = "<"
    MORE = ">"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint, understood; `text` is how the user put it."""

    text: str
    key: str
    operator: Operator
    values: tuple[str, ...]
    """One, or with `in` one or more."""

    def holds(self, node: Node, status: NodeStatus | None) -> bool:
        """Whether the node satisfies it. A node that has not got the label has it empty, as in Swarm."""
        found = fact(self.key, node, status)
        match self.operator:
            case Operator.IS | Operator.IN:
                return any(self._same(found, value) for value in self.values)
            case Operator.IS_NOT:
                return not self._same(found, self.values[0])
            case Operator.MATCHES:
                return pattern(self.values[0]).found_in(found)
            case Operator.LESS:
                return _is_number(found) and float(found) < float(self.values[0])
            case Operator.MORE:
                return _is_number(found) and float(found) > float(self.values[0])

    def _same(self, found: str, value: str) -> bool:
        if self.key == "node.ip":
            return _within(found, value)
        if self.key == "node.platform.arch":
            return _architecture(found) == _architecture(value)
        return found.casefold() == value.casefold()


@lru_cache(4096)
def parse_constraint(text: str) -> Constraint:
    """Raises InvalidArgumentError."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise _wrong(text, "must be KEY==VALUE, with one of the operators ==, !=, =~, <, > and in")
    key = normal_key(shape[1])
    if key is None:
        raise _wrong(text, f"the key {shape[1]!r} must be one of {', '.join(KEYS)}")
    operator, value = Operator(shape[2].strip().lower()), shape[3]
    values = _listed(text, value) if operator is Operator.IN else (value,)
    if "" in values:
        raise _wrong(text, "the value is missing")
    _check(text, key, operator, values)
    return Constraint(text, key, operator, values)


def normal_key(text: str) -> str | None:
    """The key as KEYS has it, whatever its case; a label keeps its own. None: there is no such key."""
    lower = text.lower()
    for prefix in (NODE_LABEL, ENGINE_LABEL):
        if lower.startswith(prefix):
            label = text[len(prefix) :]
            return prefix + label if _LABEL.fullmatch(label) else None
    return lower if lower in KEYS else None


def fact(key: str, node: Node, status: NodeStatus | None) -> str:
    """What the node has for a key; "" when it has nothing, or has never reported."""
    description = status.description if status is not None else NodeDescription()
    if key.startswith(NODE_LABEL):
        return node.spec.labels.get(key.removeprefix(NODE_LABEL), "")
    if key.startswith(ENGINE_LABEL):
        return description.engine_labels.get(key.removeprefix(ENGINE_LABEL), "")
    match key:
        case "node.id":
            return node.id
        case "node.role":
            return node.spec.role.name.lower()
        case "node.ip":
            return status.address if status is not None else ""
        case "node.hostname":
            return description.hostname
        case "node.platform.os":
            return description.os
        case _:
            return description.architecture


def unmet(constraints: Iterable[str], node: Node, status: NodeStatus | None) -> tuple[Constraint, ...]:
    """Those that the node does not satisfy."""
    parsed = (parse_constraint(text) for text in constraints)
    return tuple(each for each in parsed if not each.holds(node, status))


def _check(text: str, key: str, operator: Operator, values: tuple[str, ...]) -> None:
    """Refuse what could never hold, and so only ever be a slip."""
    is_label = key.startswith((NODE_LABEL, ENGINE_LABEL))
    if operator in (Operator.LESS, Operator.MORE):
        if not is_label:
            raise _wrong(text, f"{operator.value} compares labels, and {key} is none")
        if not _is_number(values[0]):
            raise _wrong(text, f"{operator.value} needs a number, not {values[0]!r}")
    elif operator is Operator.MATCHES:
        if key == "node.ip":
            raise _wrong(text, "an address is compared with an address or a subnet, not with a pattern")
        try:
            pattern(values[0])
        except InvalidArgumentError as error:
            raise _wrong(text, error.message) from error
    elif key == "node.ip":
        for value in values:
            if _subnet(value) is None:
                raise _wrong(text, f"{value!r} is neither an address nor a subnet")
    elif key == "node.role":
        roles = [role.name.lower() for role in NodeRole]
        for value in values:
            if value.lower() not in roles:
                raise _wrong(text, f"a role is one of {', '.join(roles)}, not {value!r}")


def _listed(text: str, value: str) -> tuple[str, ...]:
    if not (value.startswith("(") and value.endswith(")")):
        raise _wrong(text, "in needs a list: KEY in (VALUE,VALUE)")
    return tuple(item.strip() for item in value[1:-1].split(","))


def _wrong(text: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"invalid constraint {text!r}: {reason}")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _architecture(name: str) -> str:
    lower = name.lower()
    return _ARCHITECTURES.get(lower, lower)


def _subnet(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _within(address: str, subnet: str) -> bool:
    network = _subnet(subnet)
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return network is not None and found.version == network.version and found in network
