"""What several nodes are told alike: all of them, those on one network, those with encrypted networks.

A group's items are computed once for all its members, and only when a change touches it. The differences are kept in a
short log: a session that was sending meanwhile takes the log's tail as one change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from minimanager.decide.assignments import (
    Item,
    any_encrypted,
    network_assignments,
    networks_of,
    peer_assignments,
    shared_assignments,
)
from minimanager.domain.objects import Network, Node, NodeStatus, Service, Task, TaskStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.dispatcher.delta import Delta, difference, merged
from minimanager.store.cache import Change

EVERYBODY: Final = ""
"""The group of all nodes."""

PEERS: Final = "peer"
"""The group of the nodes with encrypted networks. The others are called as the networks whose nodes they are."""

LOG_LENGTH: Final = 128
"""Changes of a group that are kept; a session further behind compares whole sets instead."""

NOTHING_YET: Final = -1
"""The sequence of a session that has been told nothing of a group."""


class Group:
    """What its members are told now; `sequence` counts the changes."""

    def __init__(self) -> None:
        self.items: Mapping[str, Item] = {}
        self.sequence = 0
        self._log: deque[Delta[Item]] = deque(maxlen=LOG_LENGTH)

    def become(self, items: Mapping[str, Item]) -> bool:
        """Take what is to be told from now on. Whether that is anything new."""
        delta = difference(self.items, items)
        if not delta:
            return False
        self.items = items
        self.sequence += 1
        self._log.append(delta)
        return True

    def since(self, sequence: int, held: Mapping[str, Item]) -> Delta[Item]:
        """What turns `held`, the items as of `sequence` or of another group of the name, into the newest."""
        behind = self.sequence - sequence
        if not 0 <= behind <= len(self._log):
            return difference(held, self.items)
        return merged(islice(self._log, len(self._log) - behind, None))


def all_groups(snapshot: Snapshot) -> set[str]:
    """The names of all groups that there can be."""
    networks = {network.id for network in snapshot.networks.values() if not network.spec.ingress}
    return networks | {EVERYBODY, PEERS}


def groups_of(snapshot: Snapshot, node_id: str) -> frozenset[str]:
    """The names of the groups that the node is in."""
    networks = networks_of(snapshot, node_id)
    return networks | {EVERYBODY, PEERS} if any_encrypted(snapshot, networks) else networks | {EVERYBODY}


def items_of(snapshot: Snapshot, name: str) -> Mapping[str, Item]:
    """What the members of the group are to be told."""
    if name == EVERYBODY:
        return shared_assignments(snapshot)
    if name == PEERS:
        return peer_assignments(snapshot)
    return network_assignments(snapshot, name)


def touched_groups(snapshot: Snapshot, changes: Iterable[Change]) -> set[str]:
    """The names of the groups whose items the changes, which `snapshot` has, may alter."""
    networks: set[str] = set()
    names: set[str] = set()
    for change in changes:
        for side in (change.old, change.new):
            match side:
                case Task():
                    networks.update(_attached(side))
                case TaskStatus() if (task := snapshot.tasks.get(side.id)) is not None:
                    networks.update(_attached(task))
                case Network():
                    networks.add(side.id)
                case Service():
                    networks.update(_of_service(snapshot, side))
                    names.update({EVERYBODY} if side.ports else ())
                case Node() | NodeStatus():
                    names.update((EVERYBODY, PEERS))
                    for task in snapshot.of_node(side.id).values():
                        networks.update(_attached(task))
    for network_id in networks:
        network = snapshot.networks.get(network_id)
        names.add(EVERYBODY if network is not None and network.spec.ingress else network_id)
        names.update({PEERS} if network is not None and network.spec.encrypted else ())
    return names


def _attached(task: Task) -> set[str]:
    return {each.network_id for each in task.attachments}


def _of_service(snapshot: Snapshot, service: Service) -> set[str]:
    found = {use.network for use in service.spec.task.networks}
    for task in snapshot.of_service(service.id).values():
        found |= _attached(task)
    return found
