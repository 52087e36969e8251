"""The daemon's socket: LocalNode, Images, Volumes, a worker's own containers; all else is passed on to the manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health_pb2
from minicommon.rpc import access
from minicommon.rpc.gate import LocalGate
from minicommon.rpc.guard import Guard
from minicommon.rpc.server import add_health, add_reflection, listen_unix, new_server
from miniproto.v1 import node_pb2_grpc

from miniworker.node.containers_api import ContainersService, LocalContainers
from miniworker.node.daemon import NodeDaemon
from miniworker.node.images_api import ImagesService
from miniworker.node.local_api import LocalNodeService
from miniworker.node.member import Site
from miniworker.node.proxy import ManagerProxy
from miniworker.node.volumes_api import VolumesService

STOP_GRACE_SECONDS = 0.5
"""For answers that are on their way when the daemon ends."""


@asynccontextmanager
async def serve_local(daemon: NodeDaemon, site: Site) -> AsyncIterator[None]:
    """Serve on <run-dir>/mini.sock, for root only, until the block ends."""
    server = new_server(Guard(LocalGate()))
    node_pb2_grpc.add_LocalNodeServicer_to_server(LocalNodeService(daemon), server)
    node_pb2_grpc.add_ImagesServicer_to_server(ImagesService(site.images), server)
    node_pb2_grpc.add_VolumesServicer_to_server(VolumesService(site.volumes), server)
    health = add_health(server)
    add_reflection(server, [service.full_name for service in access.services()])
    containers = LocalContainers(ContainersService(daemon.answers), daemon.is_worker)
    server.add_generic_rpc_handlers((containers, ManagerProxy(daemon.upstream)))
    path = site.paths.local_socket
    listen_unix(server, path)
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await server.stop(STOP_GRACE_SECONDS)
        path.unlink(missing_ok=True)
