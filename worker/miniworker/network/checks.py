"""In which things the kernel is not as planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from miniworker.network import nfnetlink
from miniworker.network.api import Difference
from miniworker.network.model import (
    Bridge,
    Carrier,
    KernelObject,
    LinkAddress,
    Neighbor,
    Operation,
    Tunnel,
    Vxlan,
)
from miniworker.network.namespaces import in_namespace, is_namespace
from miniworker.network.observe import Observed
from miniworker.network.rules import SANDBOX_TABLES, different_rules, expected_of_sandbox, read_tables
from miniworker.network.sandbox_plan import Interface, SandboxPlan
from miniworker.network.sandboxes import FoundSandbox, look_inside


@dataclass(frozen=True, slots=True)
class SandboxReport:
    differences: tuple[Difference, ...]
    generation: int
    """Of the sandbox' rules when they were looked at; 0: they were not."""


def in_words(operation: Operation) -> Difference:
    """What a step that leads to the plan says of the kernel before it: pure."""
    kind, text = _describe(operation.item)
    return Difference(kind, "", text, missing=operation.add)


def check_sandbox(
    path: Path, plan: SandboxPlan, observed: Observed, *, generation: int | None
) -> SandboxReport:
    """How a sandbox differs from its plan; what its task has added is its own affair.

    `generation` is that of rules known to be right: while nobody has changed any, they need not be read.
    """
    task_id = path.name
    if not is_namespace(path):
        return SandboxReport((Difference("interface", task_id, "network namespace", missing=True),), 0)

    def inside() -> tuple[FoundSandbox, int, tuple[Difference, ...]]:
        current = nfnetlink.generation()
        if current == generation:
            return look_inside(), current, ()
        tables = read_tables(SANDBOX_TABLES)
        return look_inside(), current, different_rules(expected_of_sandbox(plan), tables, task_id=task_id)

    found, current, rules = in_namespace(path, inside)
    differences = (
        *_ports(task_id, plan.interfaces, observed),
        *inner_differences(task_id, plan, found),
        *rules,
    )
    return SandboxReport(tuple(differences), current)


def inner_differences(task_id: str, plan: SandboxPlan, found: FoundSandbox) -> Iterator[Difference]:
    """What is missing inside: pure."""
    for name, address in sorted(plan.addresses - found.addresses):
        yield Difference("address", task_id, f"{address} on {name}", missing=True)
    if plan.gateway is not None and plan.gateway not in found.gateways:
        yield Difference("route", task_id, f"default via {plan.gateway}", missing=True)
    if plan.answers_via != found.answers_via:
        yield Difference("route", task_id, "answers on the ingress network", missing=True)


def _ports(task_id: str, interfaces: Iterable[Interface], observed: Observed) -> Iterator[Difference]:
    for item in interfaces:
        link = observed.links.get(item.port)
        if link is None or not link.up or link.master != item.bridge:
            yield Difference("interface", task_id, f"{item.port} on {item.bridge}", missing=True)
        elif item.overlay and (item.port, item.mac) not in observed.forwarding:
            yield Difference("forwarding entry", task_id, f"{item.mac} on {item.port}", missing=True)


def _describe(item: KernelObject) -> tuple[str, str]:
    match item:
        case Carrier(name, kind, mtu, up):
            return "encryption", f"{name} of kind {kind}, mtu {mtu}, {'up' if up else 'down'}"
        case Bridge(name, mac, mtu, up):
            return "bridge", f"{name} with {mac}, mtu {mtu}, {'up' if up else 'down'}"
        case Vxlan(name, bridge, vni, local, port, mtu, up, carrier):
            state = "up" if up else "down"
            return (
                "tunnel device",
                f"{name} on {bridge or 'no bridge'} with vni {vni}, {local}:{port}, mtu {mtu}, {state}"
                + (f", through {carrier}" if carrier else ""),
            )
        case LinkAddress(link, address, prefix):
            return "address", f"{address}/{prefix} on {link}"
        case Tunnel(link, mac, vtep, complete, via):
            through = f" through {via}" if via else ""
            return "forwarding entry", f"{mac} to {vtep} on {link}{through}" + (
                "" if complete else " in part"
            )
        case Neighbor(link, address, mac):
            return "neighbor entry", f"{address} at {mac} on {link}"
