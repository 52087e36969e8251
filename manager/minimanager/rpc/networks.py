"""Networks: overlays that span the nodes.

A network is created with a subnet and a VXLAN identifier that no other has, so it depends on all others there are: its
transaction also takes the turn, a key that lets only one be created at a time. It is removed in two steps. The API
marks it, which frees its name and lets nobody join any more; the leader deletes it when the last address on it is given
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import FailedPreconditionError
from miniproto.v1 import control_pb2, control_pb2_grpc, objects_pb2

from minimanager.codec import from_proto
from minimanager.domain.filters import filter_networks
from minimanager.domain.objects import Meta, Network, NetworkSpec
from minimanager.domain.prune import unused_networks
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.usage import in_use_by
from minimanager.domain.validate_network import place_network, validate_network
from minimanager.rpc import connections, network_views, views
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, filters_of, find_network
from minimanager.store.keys import Kind

Context = aio.ServicerContext[Any, Any]


class NetworksServicer(control_pb2_grpc.NetworksServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._creating = asyncio.Lock()
        """Those who create at the same manager wait for each other, so that they need not lose to each other."""

    async def Create(
        self, request: control_pb2.CreateNetworkRequest, context: Context
    ) -> control_pb2.Created:
        check(request)
        spec: NetworkSpec = validate_network(from_proto(request.spec))

        async def attempt(snapshot: Snapshot) -> control_pb2.Created:
            turn_key = self._core.keys.turn(Kind.NETWORK)
            turn = await self._core.writer.claim(turn_key)
            if turn is not None:
                snapshot = await self._core.read(turn.mod_revision)
            subnet, gateway, vni = place_network(snapshot, spec)
            now_ns = self._core.clock.now_ns()
            network = Network(
                id=self._core.new_id(),
                meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns),
                spec=spec,
                subnet=str(subnet),
                gateway=str(gateway),
                vni=vni,
            )
            transaction = self._core.writer.begin().create(network)
            transaction.claim(self._core.keys.name(Kind.NETWORK, spec.name), network.id)
            transaction.turn(turn_key, version=turn.mod_revision if turn is not None else 0)
            revision = await self._core.commit(transaction)
            return control_pb2.Created(id=network.id, revision=revision)

        async with self._creating:
            return await self._core.retried(attempt)

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> objects_pb2.Network:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return views.network(find_network(snapshot, request.ref))

    async def GetDetails(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.NetworkView:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return network_views.details(snapshot, find_network(snapshot, request.ref))

    async def List(
        self, request: control_pb2.ListRequest, context: Context
    ) -> control_pb2.ListNetworksResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        chosen = filter_networks(snapshot, filters_of(request.filters))
        return control_pb2.ListNetworksResponse(
            networks=[views.network(network) for network in chosen], revision=snapshot.revision
        )

    async def Remove(
        self, request: control_pb2.RemoveNetworkRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            network = find_network(snapshot, request.ref)
            return control_pb2.Changed(revision=await self._remove(snapshot, network))

        return await self._core.retried(attempt)

    async def Connect(
        self, request: control_pb2.ConnectNetworkRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)
        aliases = tuple(request.aliases)
        revision = await connections.connect(self._core, request.ref, request.container, aliases)
        return control_pb2.Changed(revision=revision)

    async def Disconnect(
        self, request: control_pb2.DisconnectNetworkRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)
        revision = await connections.disconnect(self._core, request.ref, request.container)
        return control_pb2.Changed(revision=revision)

    async def Prune(
        self, request: control_pb2.PruneNetworksRequest, context: Context
    ) -> control_pb2.PruneNetworksResponse:
        check(request)
        snapshot = await self._core.settle()
        unused = unused_networks(snapshot, filters_of(request.filters), self._core.clock.now_ns())
        removed, revision = await self._remove_unused(unused)
        return control_pb2.PruneNetworksResponse(
            removed=[views.network(network) for network in removed], revision=revision or snapshot.revision
        )

    async def _remove_unused(self, networks: Iterable[Network]) -> tuple[list[Network], int]:
        """Those that were removed, and the last revision. One that came into use meanwhile is left alone."""
        removed: list[Network] = []
        revision = 0

        async def attempt(snapshot: Snapshot) -> int:
            present = snapshot.networks.get(network.id)
            if present is None or present.removing or in_use_by(snapshot, present):
                return 0
            return await self._remove(snapshot, present)

        for network in networks:
            try:
                done = await self._core.retried(attempt)
            except FailedPreconditionError:
                continue
            if done:
                removed.append(network)
                revision = done
        return removed, revision

    async def _remove(self, snapshot: Snapshot, network: Network) -> int:
        """Mark the network, unless something uses it.

        A service that was written at the same time may have joined it before the mark. So when the mark is there, and
        nothing can join any more, this looks again, and takes the mark back for such a service.
        """
        if network.spec.ingress:
            raise FailedPreconditionError(
                f"ingress network {network.spec.name} cannot be removed: every node has an address on it"
            )
        _ensure_unused(snapshot, network)
        name = self._core.keys.name(Kind.NETWORK, network.spec.name)
        transaction = self._core.writer.begin().replace(self._touched(replace(network, removing=True)))
        revision = await self._core.commit(transaction.release(name))
        seen = await self._core.read(revision)
        marked = seen.networks.get(network.id)
        if marked is not None:
            try:
                _ensure_unused(seen, marked)
            except FailedPreconditionError:
                back = self._core.writer.begin().replace(self._touched(replace(marked, removing=False)))
                await self._core.commit(back.claim(name, network.id))
                raise
        return revision

    def _touched(self, network: Network) -> Network:
        return replace(network, meta=replace(network.meta, updated_at_ns=self._core.clock.now_ns()))


def _ensure_unused(snapshot: Snapshot, network: Network) -> None:
    """Raises FailedPreconditionError, in SwarmKit's words, naming what uses the network."""
    users = in_use_by(snapshot, network)
    if users:
        raise FailedPreconditionError(f"network {network.spec.name} is in use by {users}")
