"""What must hold among the objects of a cluster at any revision, in sentences about what does not. Pure.

`swarm backup verify` asks it of a backup, the tests of what is left after a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from minimanager import codec
from minimanager.control.sweeper import leaked_addresses
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import KeyValue, Range
from minimanager.store.claims import claims_of
from minimanager.store.keys import Keys, Kind, NameClaim, ObjectKey, PortClaim
from minimanager.store.tables import Tables


@dataclass(frozen=True, slots=True)
class Findings:
    """What a listing holds, and what is wrong with it."""

    snapshot: Snapshot
    problems: tuple[str, ...]


def examine(listed: Range, keys: Keys) -> Findings:
    """`listed` is everything under the cluster's prefix, at one revision."""
    tables, problems = Tables(), []
    for item in listed.items:
        key = keys.parse(item.key)
        if isinstance(key, ObjectKey):
            try:
                obj = codec.decode(key.kind, item.value, item.mod_revision)
            except codec.CorruptError as error:
                problems.append(error.message)
                continue
            if obj.id != key.id:
                problems.append(f"the object at {item.key} says that it is {obj.id}")
            tables.put(key.kind, key.id, obj)
    snapshot = tables.snapshot(listed.revision)
    problems += violations(snapshot, listed, keys)
    return Findings(snapshot, tuple(problems))


def violations(snapshot: Snapshot, listed: Range, keys: Keys) -> list[str]:
    """What is wrong among objects that can be read, and their claims."""
    found = {item.key: item for item in listed.items}
    return [
        *_belonging(snapshot),
        *_claims(found, _wanted_claims(snapshot, keys), keys),
        *(
            f"the claim {item.key} belongs to {_text(item.value)}, which has not got that address"
            for item in leaked_addresses(keys, snapshot, listed.items)
        ),
    ]


def _belonging(snapshot: Snapshot) -> Iterator[str]:
    """What is about another object is not there without it."""
    for task in snapshot.tasks.values():
        if task.service_id and task.service_id not in snapshot.services:
            yield f"task {task.id} is of service {task.service_id}, which there is not"
    for what, inner, outer in (
        ("status", snapshot.statuses, snapshot.tasks),
        ("node status", snapshot.node_statuses, snapshot.nodes),
        ("rollout", snapshot.rollouts, snapshot.services),
    ):
        for object_id in inner:
            if object_id not in outer:
                yield f"the {what} {object_id} is there without what it is of"
    for service in snapshot.services.values():
        for use in () if service.removing else service.spec.task.networks:
            if use.network not in snapshot.networks:
                yield f"service {service.id} uses network {use.network}, which there is not"
    if snapshot.cluster is None:
        yield "there is no cluster object"


def _wanted_claims(snapshot: Snapshot, keys: Keys) -> dict[str, str]:
    """Who must hold which claim."""
    wanted: dict[str, str] = {}
    for service in snapshot.services.values():
        if not service.removing:
            wanted |= dict.fromkeys(claims_of(keys, service), service.id)
    for kind, named in (
        (Kind.NETWORK, snapshot.networks),
        (Kind.SECRET, snapshot.secrets),
        (Kind.CONFIG, snapshot.configs),
        (Kind.NODE, snapshot.nodes),
    ):
        for each in named.values():
            if each.spec.name and not getattr(each, "removing", False):
                wanted[keys.name(kind, each.spec.name)] = each.id
    for task in snapshot.tasks.values():
        for attachment in task.attachments:
            wanted[keys.address(attachment.network_id, attachment.address)] = task.id
    return wanted


def _claims(found: Mapping[str, KeyValue], wanted: Mapping[str, str], keys: Keys) -> Iterator[str]:
    for key, owner in wanted.items():
        holder = found.get(key)
        if holder is None:
            yield f"{owner} has no claim {key}"
        elif _text(holder.value) != owner:
            yield f"the claim {key} belongs to {_text(holder.value)}, not to {owner}"
    for key, item in found.items():
        parsed = keys.parse(key)
        if isinstance(parsed, NameClaim | PortClaim) and key not in wanted:
            yield f"the claim {key} belongs to {_text(item.value)}, which has no use for it"
        elif parsed is None and not key.startswith(keys.key_holders):
            yield f"the key {key} is none that this version knows"


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
