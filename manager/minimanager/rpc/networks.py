"""Networks: read only for now; the ingress network is made with the cluster."""

from __future__ import annotations

from typing import Any

from grpc import aio
from miniproto.v1 import control_pb2, control_pb2_grpc, objects_pb2

from minimanager.domain.filters import filter_networks
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, filters_of, find_network

Context = aio.ServicerContext[Any, Any]


class NetworksServicer(control_pb2_grpc.NetworksServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> objects_pb2.Network:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return views.network(find_network(snapshot, request.ref))

    async def List(
        self, request: control_pb2.ListRequest, context: Context
    ) -> control_pb2.ListNetworksResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        chosen = filter_networks(snapshot, filters_of(request.filters))
        return control_pb2.ListNetworksResponse(
            networks=[views.network(network) for network in chosen], revision=snapshot.revision
        )
