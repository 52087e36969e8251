"""The join port's service: the root certificate for everybody, a node's certificate for who has a token.

The node is created in the last step, in one transaction with its address on the ingress network, so that a join which
is refused leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from grpc.aio import ServicerContext
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from minicommon.log import fields
from miniproto.v1 import join_pb2, join_pb2_grpc, objects_pb2

from minimanager.ca.issuer import Issuer
from minimanager.ca.sealer import ClusterSealer
from minimanager.ca.tokens import role_of
from minimanager.codec import decode
from minimanager.domain.addresses import AddressPool
from minimanager.domain.leases import used_addresses
from minimanager.domain.objects import Availability, Cluster, Meta, Network, Node, NodeRole, NodeSpec
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster
from minimanager.store.keys import Kind

logger = logging.getLogger(__name__)

Context = ServicerContext[Any, Any]

MAX_HOSTNAME: Final = 253
"""Characters of a host name (RFC 1035)."""

REMEMBERED_PEERS: Final = 1024
"""Addresses whose rejected tokens are counted."""


class JoinService(join_pb2_grpc.JoinServicer):
    """`managers` gives host:port of the control API of every manager, this one first."""

    def __init__(self, core: Core, sealer: ClusterSealer, *, managers: Callable[[], Iterable[str]]) -> None:
        self._core = core
        self._sealer = sealer
        self._issuer = Issuer(sealer)
        self._managers = managers
        self._rejections = Rejections()
        self._one_at_a_time = asyncio.Lock()

    async def RootCertificate(
        self, request: join_pb2.RootCertificateRequest, context: Context
    ) -> join_pb2.RootCertificateResponse:
        check(request)
        cluster = require_cluster(self._core.cache.snapshot())
        return join_pb2.RootCertificateResponse(
            root_ca_pem=cluster.root_ca_pem, now_ns=self._core.clock.now_ns()
        )

    async def IssueCertificate(
        self, request: join_pb2.IssueCertificateRequest, context: Context
    ) -> join_pb2.IssueCertificateResponse:
        check(request)
        role = await self._role(request.token, context.peer())
        _check_roles(role, request.roles)
        availability = _availability(request.availability)
        if len(request.hostname) > MAX_HOSTNAME or not request.hostname.isprintable():
            raise InvalidArgumentError(
                f"hostname: must be at most {MAX_HOSTNAME} printable characters, got {len(request.hostname)}"
            )
        cluster, node_id = require_cluster(self._core.cache.snapshot()), self._core.new_id()
        certificate = self._issuer.node_certificate(
            cluster, request.csr_pem, node_id=node_id, role=role, now_ns=self._core.clock.now_ns()
        )
        await self._create(node_id, role, availability)
        logger.info(
            "Node joined.",
            extra=fields(
                node_id=node_id, role=role.name.lower(), hostname=request.hostname, peer=context.peer()
            ),
        )
        return join_pb2.IssueCertificateResponse(
            node_id=node_id,
            cluster_id=cluster.id,
            role=objects_pb2.NodeRole.ValueType(role),
            certificate_pem=certificate,
            root_ca_pem=cluster.root_ca_pem,
            managers=list(dict.fromkeys(self._managers())),
        )

    async def _role(self, token: str, peer: str) -> NodeRole:
        """What the token gives, by what the store has now: one rotated on any manager is void here at once."""
        cluster = await self._present_cluster()
        try:
            return role_of(token, cluster, self._sealer, now_ns=self._core.clock.now_ns())
        except (InvalidArgumentError, UnauthenticatedError) as error:
            host = peer.rpartition(":")[0]
            logger.warning(
                "Join token rejected.",
                extra=fields(peer=peer, rejected=self._rejections.count(host), error=error.message),
            )
            raise

    async def _present_cluster(self) -> Cluster:
        """Read past the cache, and without a write: whoever reaches the port can make us do this."""
        cluster_id = require_cluster(self._core.cache.snapshot()).id
        found = await self._core.store.get(self._core.keys.object(Kind.CLUSTER, cluster_id))
        cluster = found and decode(Kind.CLUSTER, found.value, found.mod_revision)
        if not isinstance(cluster, Cluster):
            raise FailedPreconditionError(f"cluster {cluster_id} does not exist any more")
        return cluster

    async def _create(self, node_id: str, role: NodeRole, availability: Availability) -> None:
        async def attempt(snapshot: Snapshot) -> None:
            now_ns = self._core.clock.now_ns()
            address, network = _free_address(snapshot)
            node = Node(
                id=node_id,
                meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns),
                spec=NodeSpec(role=role, availability=availability),
                ingress_address=address,
            )
            transaction = self._core.writer.begin().create(node)
            transaction.claim(self._core.keys.address(network.id, address), node_id)
            await self._core.commit(transaction)

        # A thousand nodes that join at once would all want the same address, and lose to each other.
        async with self._one_at_a_time:
            await self._core.retried(attempt)


class Rejections:
    """Rejected tokens per host, of the hosts heard of last. Guessing 128 bits is hopeless; this is for the log."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def count(self, host: str) -> int:
        """One more from this host: how many there were."""
        total = self._counts.pop(host, 0) + 1
        self._counts[host] = total
        if len(self._counts) > REMEMBERED_PEERS:
            self._counts.popitem(last=False)
        return total


def _check_roles(role: NodeRole, wanted: Iterable[int]) -> None:
    names = {number: NodeRole(number).name.lower() for number in wanted if number in tuple(NodeRole)}
    if names and role not in names:
        raise FailedPreconditionError(
            f"the token is for a {role.name.lower()}, this node can join as a {' or a '.join(names.values())} only"
        )


def _availability(number: int) -> Availability:
    try:
        return Availability(number)
    except ValueError as error:
        allowed = ", ".join(each.name.lower() for each in Availability)
        raise InvalidArgumentError(f"availability: must be one of {allowed}, got {number}") from error


def _free_address(snapshot: Snapshot) -> tuple[str, Network]:
    network = snapshot.ingress
    if network is None:
        raise FailedPreconditionError("the cluster has no ingress network")
    used = (IPv4Address(address) for address in used_addresses(snapshot, network))
    return str(AddressPool(IPv4Network(network.subnet), used).take()), network
