"""The set of what is assigned to this node, by key, and how a message from the manager changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2

from miniworker.agent.dns_table import dns_table
from miniworker.network.api import EncryptionPeer, Fabric, OverlayNetwork, RemoteEndpoint, VirtualService

V = TypeVar("V")

_FABRIC_ITEMS = frozenset({"network", "endpoint", "service", "peer"})
_NAMED_ITEMS = frozenset({"network", "service", "task"})


@dataclass(frozen=True, slots=True)
class Change:
    """What one message changed."""

    changed: dict[str, dispatch.Assignment]
    removed: tuple[str, ...]


class AssignmentSet:
    """Key -> assignment. The revision is that of the last message; 0 before the first.

    What most messages leave alone is kept in the form in which it is used: a change of one task must not cost the
    reading of every endpoint of the cluster again.
    """

    def __init__(self, items: Mapping[str, dispatch.Assignment] | None = None) -> None:
        self._items: dict[str, dispatch.Assignment] = {}
        self._networks: dict[str, OverlayNetwork] = {}
        self._endpoints: dict[str, RemoteEndpoint] = {}
        self._services: dict[str, VirtualService] = {}
        self._peers: dict[str, EncryptionPeer] = {}
        self._fabric: Fabric | None = None
        self._ports: tuple[dispatch.PublishedPort, ...] | None = None
        self._dns: ingress_pb2.DnsTable | None = None
        self.revision = 0
        for key, item in (items or {}).items():
            self._put(key, item)

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
            self._forget_forms(key, self._items.pop(key))
        for key, item in changed.items():
            self._put(key, item)
        self.revision = message.revision
        return Change(changed, tuple(removed))

    def tasks(self) -> Iterator[dispatch.AssignedTask]:
        return (item.task for item in self._items.values() if item.HasField("task"))

    def has_task(self, task_id: str) -> bool:
        return f"task/{task_id}" in self._items

    def keeps(self, task_id: str) -> bool:
        """Whether the task has ended and its container is to stay."""
        return f"kept/{task_id}" in self._items

    def ports(self) -> tuple[dispatch.PublishedPort, ...]:
        """The published ports, in a stable order."""
        if self._ports is None:
            self._ports = tuple(
                self._items[key].port for key in sorted(self._items) if self._items[key].HasField("port")
            )
        return self._ports

    def items(self) -> Iterator[tuple[str, dispatch.Assignment]]:
        """All of it, by key."""
        return iter(self._items.items())

    def dns(self) -> ingress_pb2.DnsTable:
        """What the node's DNS server answers from."""
        if self._dns is None:
            items = self._items.values()
            self._dns = dns_table(
                networks=[item.network for item in items if item.HasField("network")],
                services=[item.service for item in items if item.HasField("service")],
                tasks=[item.task for item in items if item.HasField("task")],
            )
        return self._dns

    def fabric(self, *, node_id: str, data_path_address: IPv4Address) -> Fabric:
        """What is common to the node's tasks as the data plane takes it, in a stable order."""
        if self._fabric is None:
            self._fabric = Fabric(
                node_id=node_id,
                data_path_address=data_path_address,
                networks=_in_order(self._networks),
                endpoints=_in_order(self._endpoints),
                services=_in_order(self._services),
                peers=_in_order(self._peers),
            )
        return self._fabric

    def _put(self, key: str, item: dispatch.Assignment) -> None:
        self._items[key] = item
        kind = item.WhichOneof("item")
        match kind:
            case "network":
                self._networks[key] = _network(item.network)
            case "endpoint":
                self._endpoints[key] = _endpoint(item.endpoint)
            case "service":
                self._put_service(key, item.service)
            case "peer":
                self._peers[key] = _peer(item.peer)
        self._touch(kind)

    def _put_service(self, key: str, service: dispatch.NetworkService) -> None:
        """A service has an address of its own or not (`dnsrr`), and may be updated from one to the other."""
        self._services.pop(key, None)
        if service.virtual_address:
            self._services[key] = _virtual_service(service)

    def _forget_forms(self, key: str, item: dispatch.Assignment) -> None:
        for forms in (self._networks, self._endpoints, self._services, self._peers):
            forms.pop(key, None)
        self._touch(item.WhichOneof("item"))

    def _touch(self, kind: str | None) -> None:
        if kind in _FABRIC_ITEMS:
            self._fabric = None
        if kind in _NAMED_ITEMS:
            self._dns = None
        if kind == "port":
            self._ports = None


def _in_order(values: Mapping[str, V]) -> tuple[V, ...]:
    return tuple(values[key] for key in sorted(values))


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
        internal=network.internal,
        encrypted=network.encrypted,
    )


def _endpoint(endpoint: dispatch.Endpoint) -> RemoteEndpoint:
    return RemoteEndpoint(
        network_id=endpoint.network_id,
        address=IPv4Address(endpoint.address),
        node_id=endpoint.node_id,
        vtep=IPv4Address(endpoint.vtep),
        task_id=endpoint.task_id,
    )


def _virtual_service(service: dispatch.NetworkService) -> VirtualService:
    return VirtualService(
        network_id=service.network_id,
        service_id=service.service_id,
        address=IPv4Address(service.virtual_address),
        backends=tuple(sorted(IPv4Address(backend.address) for backend in service.backends)),
    )


def _peer(peer: dispatch.EncryptionPeer) -> EncryptionPeer:
    return EncryptionPeer(
        node_id=peer.node_id,
        vtep=IPv4Address(peer.vtep),
        public_key=peer.public_key,
        next_public_key=peer.next_public_key,
    )
