"""The cluster: its settings, its managers, its etcd, and the tokens by which nodes join."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import InvalidArgumentError, UnavailableError
from minicommon.identity.keyring import new_unlock_key
from minicommon.log import fields
from minicommon.settings import ManagerSettings
from miniproto.v1 import control_pb2, control_pb2_grpc

from minimanager.ca.sealer import ClusterSealer
from minimanager.ca.tokens import rotated
from minimanager.codec import from_proto
from minimanager.domain.objects import Cluster, ClusterSpec, NodeRole
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import validate_cluster
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, ensure_version, require_cluster

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]


class ClustersServicer(control_pb2_grpc.ClustersServicer):
    """`followed` returns when this manager's disk is as a version of the cluster object wants it."""

    def __init__(
        self,
        core: Core,
        settings: ManagerSettings,
        sealer: ClusterSealer,
        *,
        followed: Callable[[int], Awaitable[None]],
    ) -> None:
        self._core = core
        self._settings = settings
        self._sealer = sealer
        self._followed = followed

    async def Get(self, request: control_pb2.GetClusterRequest, context: Context) -> control_pb2.ClusterInfo:
        check(request)
        leader, etcd = await asyncio.gather(self._core.leader(), self._etcd())
        snapshot = await self._core.read()
        return control_pb2.ClusterInfo(
            cluster=views.cluster(require_cluster(snapshot)),
            managers=self._managers(snapshot, leader),
            etcd=etcd,
            revision=snapshot.revision,
            nodes=len(snapshot.nodes),
        )

    async def Update(
        self, request: control_pb2.UpdateClusterRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)
        spec = validate_cluster(from_proto(request.spec))
        await self._core.read(request.version)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            cluster = require_cluster(snapshot)
            ensure_version(cluster.meta, request.version)
            meta = replace(cluster.meta, updated_at_ns=self._core.clock.now_ns())
            changed = replace(self._locked(cluster, spec), spec=spec, meta=meta)
            transaction = self._core.writer.begin().replace(changed)
            return control_pb2.Changed(revision=await self._core.commit(transaction))

        changed = await self._core.retried(attempt)
        await self._followed(changed.revision)
        return changed

    def _locked(self, cluster: Cluster, spec: ClusterSpec) -> Cluster:
        """With autolock turned on the cluster gets an unlock key; without it has none."""
        if not spec.autolock:
            return replace(
                cluster, sealed_unlock_key=b"", sealed_former_unlock_key=b"", unlock_key_pending=False
            )
        if cluster.sealed_unlock_key:
            return cluster
        sealed = self._sealer.unlock_key(new_unlock_key())
        return replace(cluster, sealed_unlock_key=sealed, unlock_key_pending=True)

    async def JoinToken(
        self, request: control_pb2.JoinTokenRequest, context: Context
    ) -> control_pb2.JoinTokenResponse:
        """The token for a role; a rotated one is void for new nodes at once, members are not affected."""
        check(request)
        role = _role(request.role)
        cluster = require_cluster(await self._core.settle())
        if request.rotate:
            cluster = await self._core.retried(lambda snapshot: self._rotate(require_cluster(snapshot), role))
            logger.info("Join token rotated.", extra=fields(role=role.name.lower()))
        return control_pb2.JoinTokenResponse(
            token=self._sealer.token_text(role, cluster),
            address=f"{self._settings.advertise_host}:{self._settings.join_port}",
        )

    async def _rotate(self, cluster: Cluster, role: NodeRole) -> Cluster:
        meta = replace(cluster.meta, updated_at_ns=self._core.clock.now_ns())
        changed = replace(rotated(cluster, role, self._sealer), meta=meta)
        await self._core.commit(self._core.writer.begin().replace(changed))
        return changed

    def _managers(self, snapshot: Snapshot, leader: str) -> list[control_pb2.ManagerInfo]:
        found = [node for node in snapshot.nodes.values() if node.spec.role is NodeRole.MANAGER]
        return [
            control_pb2.ManagerInfo(
                node_id=node.id,
                address=self._address(snapshot, node.id),
                leader=node.id == leader,
            )
            for node in sorted(found, key=lambda node: node.id)
        ]

    def _address(self, snapshot: Snapshot, node_id: str) -> str:
        """host:port of the manager's control API; this manager knows its own before its agent has told it."""
        if node_id == self._settings.node_id:
            return f"{self._settings.advertise_host}:{self._settings.control_port}"
        status = snapshot.node_statuses.get(node_id)
        return "" if status is None else status.manager_address

    async def _etcd(self) -> control_pb2.EtcdInfo:
        try:
            status = await self._core.store.status()
        except UnavailableError as error:
            return control_pb2.EtcdInfo(
                endpoints=self._settings.etcd.endpoints, healthy=False, message=error.message
            )
        return control_pb2.EtcdInfo(
            version=status.version,
            endpoints=status.endpoints,
            healthy=True,
            database_bytes=status.database_bytes,
        )


def _role(number: int) -> NodeRole:
    try:
        return NodeRole(number)
    except ValueError as error:
        raise InvalidArgumentError(f"role: must be 0 (worker) or 1 (manager), got {number}") from error
