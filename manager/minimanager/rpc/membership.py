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

from minimanager.ca.issuer import Issuer
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Meta, Node, NodeState, NodeStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster

logger = logging.getLogger(__name__)

Context = ServicerContext[Any, Any]

LEFT = "the node left the cluster"


class MembershipService(join_pb2_grpc.MembershipServicer):
    def __init__(self, core: Core, sealer: ClusterSealer) -> None:
        self._core = core
        self._issuer = Issuer(sealer)

    async def RenewCertificate(
        self, request: join_pb2.RenewCertificateRequest, context: Context
    ) -> join_pb2.RenewCertificateResponse:
        """A certificate for a new key. The role is the node's present one, whatever the old certificate says."""
        check(request)
        snapshot = await self._core.settle()
        cluster, node = require_cluster(snapshot), _node(snapshot, context)
        certificate = self._issuer.node_certificate(
            cluster, request.csr_pem, node_id=node.id, role=node.spec.role, now_ns=self._core.clock.now_ns()
        )
        logger.info("Certificate renewed.", extra=fields(node_id=node.id, role=node.spec.role.name.lower()))
        return join_pb2.RenewCertificateResponse(certificate_pem=certificate, root_ca_pem=cluster.root_ca_pem)

    async def Leave(self, request: join_pb2.LeaveRequest, context: Context) -> join_pb2.LeaveResponse:
        """The node is down at once, so that its tasks move now."""
        check(request)
        node_id = _node(await self._core.settle(), context).id

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


def _node(snapshot: Snapshot, context: Context) -> Node:
    """The caller's own node."""
    caller = identity(context)
    node = snapshot.nodes.get(caller.node_id)
    if node is None:
        raise PermissionDeniedError(f"node {caller.node_id} is not in the cluster")
    return node
