"""The set of what is assigned to this node, by key, and how a message from the manager changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.network.api import Fabric, OverlayNetwork, RemoteEndpoint


@dataclass(frozen=True, slots=True)
class Change:
    """What one message changed."""

    changed: dict[str, dispatch.Assignment]
    removed: tuple[str, ...]


class AssignmentSet:
    """Key -> assignment. The revision is that of the last message; 0 before the first."""

    def __init__(self, items: Mapping[str, dispatch.Assignment] | None = None) -> None:
        self._items = dict(items or {})
        self.revision = 0

    def apply(self, message: dispatch.Assignments) -> Change:
        """Take a message in. A complete one removes everything that it does not name."""
        named = {change.key: change for change in message.changes}
        removed = [key for key, change in named.items() if change.remove and key in self._items]
        if message.complete:
            removed += [key for key in self._items if key not in named]
        changed = {
            key: change.assignment
            for key, change in named.items()
            if not change.remove and self._items.get(key) != change.assignment
        }
        for key in removed:
            del self._items[key]
        self._items.update(changed)
        self.revision = message.revision
        return Change(changed, tuple(removed))

    def tasks(self) -> Iterator[dispatch.AssignedTask]:
        return (item.task for item in self._items.values() if item.HasField("task"))

    def has_task(self, task_id: str) -> bool:
        return f"task/{task_id}" in self._items

    def ports(self) -> list[dispatch.PublishedPort]:
        return [item.port for item in self._items.values() if item.HasField("port")]

    def fabric(self, *, node_id: str, data_path_address: IPv4Address) -> Fabric:
        """The networks and endpoints as the data plane takes them, in a stable order."""
        items = [self._items[key] for key in sorted(self._items)]
        return Fabric(
            node_id=node_id,
            data_path_address=data_path_address,
            networks=tuple(_network(item.network) for item in items if item.HasField("network")),
            endpoints=tuple(_endpoint(item.endpoint) for item in items if item.HasField("endpoint")),
        )


def _network(network: dispatch.AssignedNetwork) -> OverlayNetwork:
    return OverlayNetwork(
        id=network.id,
        name=network.name,
        subnet=IPv4Network(network.subnet),
        gateway=IPv4Address(network.gateway),
        vni=network.vni,
        mtu=network.mtu,
        ingress=network.ingress,
        node_address=IPv4Address(network.node_address) if network.node_address else None,
    )


def _endpoint(endpoint: dispatch.Endpoint) -> RemoteEndpoint:
    return RemoteEndpoint(
        network_id=endpoint.network_id,
        address=IPv4Address(endpoint.address),
        node_id=endpoint.node_id,
        vtep=IPv4Address(endpoint.vtep),
        task_id=endpoint.task_id,
    )
