"""Nodes: the members of the cluster, as the API shows and changes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import AlreadyExistsError, FailedPreconditionError
from miniproto.v1 import control_pb2, control_pb2_grpc

from minimanager.codec import from_proto
from minimanager.domain.filters import filter_nodes
from minimanager.domain.objects import Cluster, Node, NodeRole, NodeSpec, NodeState, RemovedNode
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import validate_node
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.requests import (
    check,
    ensure_version,
    filters_of,
    find_node,
    require_cluster,
)
from minimanager.store.keys import Kind
from minimanager.store.transaction import Transaction

Context = aio.ServicerContext[Any, Any]


class NodesServicer(control_pb2_grpc.NodesServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.NodeView:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        node = find_node(snapshot, self._ref(request.ref))
        return views.node(snapshot, node, leader=await self._core.leader())

    async def List(self, request: control_pb2.ListRequest, context: Context) -> control_pb2.ListNodesResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        leader = await self._core.leader()
        return control_pb2.ListNodesResponse(
            nodes=[
                views.node(snapshot, node, leader=leader)
                for node in filter_nodes(snapshot, filters_of(request.filters))
            ],
            revision=snapshot.revision,
        )

    async def Update(self, request: control_pb2.UpdateNodeRequest, context: Context) -> control_pb2.Changed:
        check(request)
        spec = from_proto(request.spec)
        validate_node(spec)
        await self._core.read(request.version)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            node = find_node(snapshot, self._ref(request.ref))
            ensure_version(node.meta, request.version)
            _ensure_role_kept(snapshot, node, spec)
            _ensure_name_free(snapshot, node, spec)
            return control_pb2.Changed(revision=await self._core.commit(self._update(node, spec)))

        return await self._core.retried(attempt)

    async def Remove(self, request: control_pb2.RemoveNodeRequest, context: Context) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            node = find_node(snapshot, self._ref(request.ref))
            _ensure_removable(snapshot, node, force=request.force)
            return control_pb2.Changed(revision=await self._core.commit(self._removal(snapshot, node)))

        return await self._core.retried(attempt)

    def _ref(self, ref: str) -> str:
        """`self` is the node that the manager runs on, as for `docker node inspect self`."""
        return self._core.node_id if ref == "self" else ref

    def _update(self, node: Node, spec: NodeSpec) -> Transaction:
        meta = replace(node.meta, updated_at_ns=self._core.clock.now_ns())
        transaction = self._core.writer.begin()
        transaction.replace(replace(node, spec=spec, meta=meta))
        if spec.name != node.spec.name:
            if spec.name:
                transaction.claim(self._core.keys.name(Kind.NODE, spec.name), node.id)
            if node.spec.name:
                transaction.release(self._core.keys.name(Kind.NODE, node.spec.name))
        return transaction

    def _removal(self, snapshot: Snapshot, node: Node) -> Transaction:
        """The node, its status, its address and its name go; its certificate is refused from now on."""
        cluster = require_cluster(snapshot)
        transaction = self._core.writer.begin()
        transaction.delete(node)
        status = snapshot.node_statuses.get(node.id)
        if status is not None:
            transaction.delete(status)
        if node.ingress_address and snapshot.ingress is not None:
            transaction.release(self._core.keys.address(snapshot.ingress.id, node.ingress_address))
        if node.spec.name:
            transaction.release(self._core.keys.name(Kind.NODE, node.spec.name))
        transaction.replace(self._without(cluster, node))
        return transaction

    def _without(self, cluster: Cluster, node: Node) -> Cluster:
        """The cluster, which refuses the node until its newest certificate expires, and forgets it then."""
        now_ns = self._core.clock.now_ns()
        until_ns = node.certificate_expires_at_ns or now_ns + cluster.spec.certificate_lifetime_ns
        kept = (each for each in cluster.removed_nodes if each.expires_at_ns > now_ns)
        return replace(
            cluster,
            removed_nodes=(*kept, RemovedNode(node.id, until_ns)),
            meta=replace(cluster.meta, updated_at_ns=now_ns),
        )


def _ensure_role_kept(snapshot: Snapshot, node: Node, spec: NodeSpec) -> None:
    """A node's role is in its certificate; changing it is more than changing this object."""
    if spec.role is node.spec.role:
        return
    managers = sum(1 for other in snapshot.nodes.values() if other.spec.role is NodeRole.MANAGER)
    if spec.role is NodeRole.WORKER and managers == 1:
        raise FailedPreconditionError("attempting to demote the last manager of the swarm")
    raise FailedPreconditionError(
        f"role: the role of node {node.id} is {node.spec.role.name.lower()} and cannot be changed by this version"
    )


def _ensure_name_free(snapshot: Snapshot, node: Node, spec: NodeSpec) -> None:
    """Raises AlreadyExistsError, in SwarmKit's words, when another node has the name."""
    others = (other for other in snapshot.nodes.values() if other.id != node.id)
    if spec.name and any(other.spec.name == spec.name for other in others):
        raise AlreadyExistsError(f"name conflicts with an existing object: node {spec.name} already exists")


def _ensure_removable(snapshot: Snapshot, node: Node, *, force: bool) -> None:
    """SwarmKit's rules and words (`manager/controlapi/node.go`)."""
    if node.spec.role is NodeRole.MANAGER:
        raise FailedPreconditionError(
            f"node {node.id} is a cluster manager and is a member of the raft cluster. "
            "It must be demoted to worker before removal"
        )
    status = snapshot.node_statuses.get(node.id)
    if status is not None and status.state is NodeState.READY and not force:
        raise FailedPreconditionError(f"node {node.id} is not down and can't be removed")
