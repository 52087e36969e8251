"""A cluster of one manager, as far as joining needs it: real TLS, real gRPC, the store in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from minicommon.clock import Clock, SystemClock
from minicommon.identity.authority import Authority, issue_with_key, new_cluster_root, node_subject
from minicommon.ids import new_id
from minicommon.rpc.credentials import NodeCredentials, server_credentials
from minicommon.rpc.server import add_health, listen_tls, new_server
from minimanager.ca.sealer import ClusterSealer
from minimanager.ca.tokens import rotated
from minimanager.domain.objects import HOUR, Cluster, Network, NetworkSpec, NodeRole, RemovedNode
from minimanager.rpc.core import Core
from minimanager.rpc.interceptors import control_guard
from minimanager.rpc.join import JoinService
from minimanager.rpc.join_listener import GrpcJoinListener
from minimanager.rpc.membership import MembershipService
from minimanager.store.cache import Cache
from minimanager.store.envelope import Envelope
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from minimanager.store.writer import Writer
from miniproto.v1 import join_pb2_grpc

CONTROL = "10.77.0.11:2378"
"""What the manager says of itself; nothing listens there."""

SUBNET = "10.0.0.0/24"


@dataclass(slots=True)
class JoinSite:
    core: Core
    sealer: ClusterSealer
    root: Authority
    credentials: NodeCredentials
    """What the manager shows; a test may replace it."""
    join_address: str = ""
    other_join_address: str = ""
    """Of a second manager on the same store, with a cache of its own."""
    control_address: str = ""

    @property
    def cluster(self) -> Cluster:
        found = self.core.cache.snapshot().cluster
        assert found is not None
        return found

    def token(self, role: NodeRole = NodeRole.WORKER) -> str:
        return self.sealer.token_text(role, self.cluster)

    async def change(self, cluster: Cluster) -> None:
        """Write the cluster object."""
        await self.core.commit(self.core.writer.begin().replace(cluster))

    async def rotate(self, role: NodeRole = NodeRole.WORKER, *, expires_at_ns: int = 0) -> None:
        await self.change(rotated(self.cluster, role, self.sealer, expires_at_ns=expires_at_ns))

    async def remove_node(self, node_id: str) -> None:
        removed = (*self.cluster.removed_nodes, RemovedNode(node_id, self.core.clock.now_ns() + HOUR))
        await self.change(replace(self.cluster, removed_nodes=removed))

    def load(self) -> NodeCredentials:
        return self.credentials


@asynccontextmanager
async def join_site(clock: Clock | None = None) -> AsyncIterator[JoinSite]:
    """Two managers' join ports and one control port, on free ports of the loopback interface."""
    site = await _site(clock or SystemClock())
    other = replace(site.core, cache=Cache(site.core.store, site.core.keys))
    async with (
        _following(site.core.cache),
        _following(other.cache),
        _join_port(site, site.core) as site.join_address,
        _join_port(site, other) as site.other_join_address,
        _control_port(site) as site.control_address,
    ):
        yield site


@asynccontextmanager
async def _following(cache: Cache) -> AsyncIterator[None]:
    following = asyncio.create_task(cache.run())
    await cache.wait_synced()
    yield
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


@asynccontextmanager
async def _join_port(site: JoinSite, core: Core) -> AsyncIterator[str]:
    listener = GrpcJoinListener(JoinService(core, site.sealer, managers=lambda: [CONTROL]), site.load)
    yield f"127.0.0.1:{await listener.start('127.0.0.1:0')}"
    await listener.stop()


@asynccontextmanager
async def _control_port(site: JoinSite) -> AsyncIterator[str]:
    core = site.core
    server = new_server(control_guard(cluster_id=site.cluster.id, cache=core.cache, clock=core.clock))
    join_pb2_grpc.add_MembershipServicer_to_server(MembershipService(core, site.sealer), server)
    add_health(server)
    port = listen_tls(server, "127.0.0.1:0", server_credentials(site.load, client_certificate=True))
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _site(clock: Clock) -> JoinSite:
    cluster_id, manager_id = new_id(), new_id()
    root = new_cluster_root(clock.now_ns())
    pair = issue_with_key(
        root, node_subject(manager_id, manager=True, cluster_id=cluster_id), now_ns=clock.now_ns()
    )
    sealer = ClusterSealer(Envelope(bytes(32), cluster_id))
    keys, store = Keys(cluster_id), MemoryStore(clock=clock)
    core = Core(
        cache=Cache(store, keys),
        writer=Writer(store, keys),
        store=store,
        keys=keys,
        clock=clock,
        node_id=manager_id,
    )
    cluster = Cluster(
        cluster_id,
        root_ca_pem=root.certificate_pem,
        sealed_root_key=sealer.root_key(root.key_pem),
        worker_token=sealer.join_token(NodeRole.WORKER, root.certificate_pem),
        manager_token=sealer.join_token(NodeRole.MANAGER, root.certificate_pem),
    )
    ingress = Network(
        new_id(), spec=NetworkSpec("ingress", ingress=True), subnet=SUBNET, gateway="10.0.0.1", vni=4096
    )
    await core.writer.commit(core.writer.begin().create(cluster).create(ingress))
    credentials = NodeCredentials(pair.key_pem, pair.certificate_pem, root.certificate_pem)
    return JoinSite(core, sealer, root, credentials)
