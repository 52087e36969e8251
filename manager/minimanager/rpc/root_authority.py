"""The cluster's root: shown, and changed while everything goes on."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from grpc import aio
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.identity.authority import (
    Authority,
    cross_signed,
    given_root,
    key_identifier,
    new_cluster_root,
)
from miniproto.v1 import control_pb2, security_pb2, security_pb2_grpc

from minimanager.ca.issuer import signing_key
from minimanager.ca.sealer import ClusterSealer
from minimanager.decide.upkeep import root_progress
from minimanager.domain.objects import Cluster, RootRotation
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster
from minimanager.rpc.watches import Watches, change_of
from minimanager.store.keys import Kind

Context = aio.ServicerContext[Any, Any]

_CONCERNED: Final = frozenset({Kind.CLUSTER, Kind.NODE, Kind.NODE_STATUS, Kind.CLIENT})
"""Objects that a change of the root is told from."""


class RootAuthorityServicer(security_pb2_grpc.RootAuthorityServicer):
    def __init__(self, core: Core, sealer: ClusterSealer) -> None:
        self._core = core
        self._sealer = sealer
        self._watches = Watches(core.cache)

    def close(self) -> None:
        """The manager stops: whoever watches is told to ask another."""
        self._watches.close()

    async def Get(self, request: security_pb2.GetRootRequest, context: Context) -> security_pb2.RootInfo:
        check(request)
        return self._info(await self._core.settle())

    async def Watch(
        self, request: security_pb2.GetRootRequest, context: Context
    ) -> AsyncIterator[security_pb2.RootInfo]:
        check(request)
        await self._core.settle()
        told = None
        with self._watches.open() as changes:
            while True:
                info = self._info(self._core.cache.snapshot())
                if info != told:
                    told = info
                    yield info
                await change_of(_CONCERNED, changes)

    def _info(self, snapshot: Snapshot) -> security_pb2.RootInfo:
        cluster, now_ns = require_cluster(snapshot), self._core.clock.now_ns()
        issuer = signing_key(cluster)
        progress = root_progress(snapshot, cluster, issuer, now_ns)
        rotation = cluster.root_rotation
        others = (
            client
            for client in snapshot.clients.values()
            if client.issuer != issuer and not client.revoked_at_ns and client.expires_at_ns > now_ns
        )
        return security_pb2.RootInfo(
            root_ca_pem=cluster.root_ca_pem,
            rotating=rotation.active,
            digest=_digest(cluster.root_ca_pem),
            next_digest=_digest(rotation.root_ca_pem) if rotation.active else "",
            nodes=progress.nodes,
            certificates=progress.nodes - len(progress.certificates),
            trusting=progress.nodes - len(progress.trust),
            waiting=progress.waiting,
            clients=sum(1 for _ in others),
        )

    async def Rotate(self, request: security_pb2.RotateRootRequest, context: Context) -> control_pb2.Changed:
        """Begin. The leader ends it when every node has followed."""
        check(request)
        wanted = self._wanted(request)
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            cluster = require_cluster(snapshot)
            changed = replace(
                cluster,
                root_rotation=self._begun(cluster, wanted),
                meta=replace(cluster.meta, updated_at_ns=self._core.clock.now_ns()),
            )
            revision = await self._core.commit(self._core.writer.begin().replace(changed))
            return control_pb2.Changed(revision=revision)

        return await self._core.retried(attempt)

    def _wanted(self, request: security_pb2.RotateRootRequest) -> Authority:
        now_ns = self._core.clock.now_ns()
        if bool(request.ca_certificate_pem) != bool(request.ca_key_pem):
            raise InvalidArgumentError("the CA certificate and the CA key must be given together")
        if request.ca_certificate_pem:
            return given_root(request.ca_certificate_pem, request.ca_key_pem, now_ns=now_ns)
        return new_cluster_root(now_ns)

    def _begun(self, cluster: Cluster, wanted: Authority) -> RootRotation:
        if cluster.root_rotation.active:
            raise FailedPreconditionError(
                "a rotation of the root is going on: `minictl node ls` shows the nodes that it waits for; "
                "remove those that will not come back"
            )
        if key_identifier(wanted.certificate_pem) == key_identifier(cluster.root_ca_pem):
            raise InvalidArgumentError("CA certificate: is for the key that the cluster's root has already")
        return RootRotation(
            root_ca_pem=wanted.certificate_pem,
            sealed_root_key=self._sealer.next_root_key(wanted.key_pem),
            cross_signed_pem=cross_signed(self._sealer.present_authority(cluster), wanted.certificate_pem),
            started_at_ns=self._core.clock.now_ns(),
            issuer=key_identifier(wanted.certificate_pem),
        )


def _digest(pem: bytes) -> str:
    return hashlib.sha256(pem).hexdigest()
