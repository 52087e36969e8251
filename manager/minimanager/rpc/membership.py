"""What a member asks of the cluster about itself: a new certificate, and to be let go."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from grpc.aio import ServicerContext
from minicommon.errors import PermissionDeniedError
from minicommon.log import fields
from minicommon.rpc.gate import identity
from miniproto.v1 import join_pb2, join_pb2_grpc

from minimanager.ca.issuer import Issuer, trusted_roots
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Meta, Node, NodeState, NodeStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster

logger = logging.getLogger(__name__)

Context = ServicerContext[Any, Any]

LEFT = "the node left the cluster"


class MembershipService(join_pb2_grpc.MembershipServicer):
    def __init__(self, core: Core, sealer: ClusterSealer, *, issuer: Issuer | None = None) -> None:
        self._core = core
        self._issuer = issuer or Issuer(sealer)

    async def RenewCertificate(
        self, request: join_pb2.RenewCertificateRequest, context: Context
    ) -> join_pb2.RenewCertificateResponse:
        """A certificate for a new key. The role is the node's present one, whatever the old certificate says.

        Root on a manager's machine renews for its own node, whose certificate may have expired: the manager could not
        be reached in any other way.
        """
        check(request)
        node_id = identity(context).node_id or self._core.node_id
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> join_pb2.RenewCertificateResponse:
            cluster, node = require_cluster(snapshot), _node(snapshot, node_id)
            now_ns = self._core.clock.now_ns()
            issued = self._issuer.node_certificate(
                cluster, request.csr_pem, node_id=node.id, role=node.spec.role, now_ns=now_ns
            )
            meta = replace(node.meta, updated_at_ns=now_ns)
            latest_ns = max(issued.expires_at_ns, node.certificate_expires_at_ns)
            renewed = replace(node, certificate_expires_at_ns=latest_ns, meta=meta)
            await self._core.commit(self._core.writer.begin().replace(renewed))
            return join_pb2.RenewCertificateResponse(
                certificate_pem=issued.chain_pem, root_ca_pem=trusted_roots(cluster)
            )

        answer = await self._core.retried(attempt)
        logger.info("Certificate renewed.", extra=fields(node_id=node_id))
        return answer

    async def Leave(self, request: join_pb2.LeaveRequest, context: Context) -> join_pb2.LeaveResponse:
        """The node is down at once, so that its tasks move now."""
        check(request)
        node_id = _node(await self._core.settle(), identity(context).node_id).id

        async def attempt(snapshot: Snapshot) -> None:
            node, status = snapshot.nodes.get(node_id), snapshot.node_statuses.get(node_id)
            if node is None or (status is not None and status.state is NodeState.DOWN):
                return
            transaction = self._core.writer.begin()
            transaction.save(self._down(node_id, status)).guard(node)
            await self._core.commit(transaction)

        await self._core.retried(attempt)
        logger.info("Node left.", extra=fields(node_id=node_id))
        return join_pb2.LeaveResponse()

    def _down(self, node_id: str, status: NodeStatus | None) -> NodeStatus:
        now_ns = self._core.clock.now_ns()
        present = status or NodeStatus(node_id, Meta(created_at_ns=now_ns))
        return replace(
            present,
            meta=replace(present.meta, updated_at_ns=now_ns),
            state=NodeState.DOWN,
            message=LEFT,
            since_ns=now_ns,
        )


def _node(snapshot: Snapshot, node_id: str) -> Node:
    """The caller's own node."""
    node = snapshot.nodes.get(node_id)
    if node is None:
        raise PermissionDeniedError(f"node {node_id} is not in the cluster")
    return node
