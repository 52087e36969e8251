"""The join port's service: the root certificate for everybody, a node's certificate for who has a token.

The node is created in the last step, in one transaction with its address on the ingress network, so that a join which
is refused leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from grpc.aio import ServicerContext
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from minicommon.log import fields
from miniproto.v1 import join_pb2, join_pb2_grpc, objects_pb2

from minimanager.ca.issuer import Issuer, trusted_roots
from minimanager.ca.sealer import ClusterSealer
from minimanager.ca.tokens import WRONG, Admission, admission, ensure_usable
from minimanager.codec import decode
from minimanager.domain.addresses import AddressPool
from minimanager.domain.leases import used_addresses
from minimanager.domain.objects import (
    Availability,
    Cluster,
    IssuedToken,
    Meta,
    Network,
    Node,
    NodeRole,
    NodeSpec,
)
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

    def __init__(
        self,
        core: Core,
        sealer: ClusterSealer,
        *,
        managers: Callable[[], Iterable[str]],
        issuer: Issuer | None = None,
    ) -> None:
        self._core = core
        self._sealer = sealer
        self._issuer = issuer or Issuer(sealer)
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
        admitted = await self._admission(request.token, context.peer())
        role = admitted.role
        _check_roles(role, request.roles)
        availability = _availability(request.availability)
        if len(request.hostname) > MAX_HOSTNAME or not request.hostname.isprintable():
            raise InvalidArgumentError(
                f"hostname: must be at most {MAX_HOSTNAME} printable characters, got {len(request.hostname)}"
            )
        cluster, node_id = require_cluster(self._core.cache.snapshot()), self._core.new_id()
        issued = self._issuer.node_certificate(
            cluster, request.csr_pem, node_id=node_id, role=role, now_ns=self._core.clock.now_ns()
        )
        node = Node(
            id=node_id,
            spec=NodeSpec(role=role, availability=availability),
            certificate_expires_at_ns=issued.expires_at_ns,
        )
        await self._create(node, admitted.issued)
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
            certificate_pem=issued.chain_pem,
            root_ca_pem=trusted_roots(cluster),
            managers=list(dict.fromkeys(self._managers())),
        )

    async def _admission(self, token: str, peer: str) -> Admission:
        """What the token gives, by what the store has now: one rotated on any manager is void here at once."""
        cluster = await self._present_cluster()
        known, now_ns = self._core.cache.snapshot().tokens.values(), self._core.clock.now_ns()
        try:
            try:
                return admission(token, cluster, self._sealer, known, now_ns=now_ns)
            except UnauthenticatedError:  # another manager may have made it just now
                return admission(token, cluster, self._sealer, await self._present_tokens(), now_ns=now_ns)
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

    async def _present_tokens(self) -> list[IssuedToken]:
        listed = await self._core.store.list(f"{self._core.keys.prefix}{Kind.TOKEN.value}/")
        found = (decode(Kind.TOKEN, item.value, item.mod_revision) for item in listed.items)
        return [token for token in found if isinstance(token, IssuedToken)]

    async def _create(self, node: Node, token: IssuedToken | None) -> None:
        """The node, its address and one more use of its token: all of it or nothing."""

        async def attempt(snapshot: Snapshot) -> None:
            now_ns = self._core.clock.now_ns()
            address, network = _free_address(snapshot)
            meta = Meta(created_at_ns=now_ns, updated_at_ns=now_ns)
            transaction = self._core.writer.begin()
            transaction.create(replace(node, meta=meta, ingress_address=address))
            transaction.claim(self._core.keys.address(network.id, address), node.id)
            if token is not None:
                transaction.replace(_used(snapshot, token, now_ns=now_ns))
            await self._core.commit(transaction)

        # A thousand nodes that join at once would all want the same address, and lose to each other.
        async with self._one_at_a_time:
            await self._core.retried(attempt)


def _used(snapshot: Snapshot, token: IssuedToken, *, now_ns: int) -> IssuedToken:
    """The token with one more use. Raises UnauthenticatedError when others were faster."""
    present = snapshot.tokens.get(token.id)
    if present is None:
        raise UnauthenticatedError(f"{WRONG}: this one was revoked")
    ensure_usable(present, now_ns=now_ns)
    return replace(present, uses=present.uses + 1, meta=replace(present.meta, updated_at_ns=now_ns))


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
