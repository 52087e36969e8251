"""A gRPC server for tests of the CLI: real grpc.aio on a unix socket or with TLS, canned objects behind it.

It runs in a thread of its own, so that a test can run `minictl` as a process, or call the blocking client, beside it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import control_pb2_grpc, node_pb2, node_pb2_grpc, streams_pb2
from miniproto.v1 import objects_pb2 as objects
from support import canned

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class World:
    """What the server knows, and what it was asked."""

    services: dict[str, control.ServiceView] = field(default_factory=dict)
    tasks: list[control.TaskView] = field(default_factory=list)
    nodes: list[control.NodeView] = field(default_factory=list)
    networks: list[objects.Network] = field(default_factory=list)
    images: list[node_pb2.Image] = field(default_factory=list)
    resolved: dict[str, node_pb2.ResolveImageResponse] = field(default_factory=dict)
    """What registries say, by reference; of others they do not answer."""
    resolving: list[node_pb2.ResolveImageRequest] = field(default_factory=list)
    volumes: dict[str, node_pb2.Volume] = field(default_factory=dict)
    progress: list[control.ServiceProgress] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    uploaded: bytearray = field(default_factory=bytearray)
    conflicts: int = 0
    hold_progress: bool = False
    """Keep the stream of progress open after the last of it."""
    canceled: threading.Event = field(default_factory=threading.Event)


class _Services(control_pb2_grpc.ServicesServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def _find(self, ref: str, context: Context) -> control.ServiceView:
        for view in self.world.services.values():
            if ref in (view.service.id, view.service.spec.name):
                return view
        await context.abort(grpc.StatusCode.NOT_FOUND, f"service {ref} not found")
        raise AssertionError("abort returned")

    async def Create(self, request: control.CreateServiceRequest, context: Context) -> control.Created:
        self.world.requests.append(request)
        if request.spec.name in {view.service.spec.name for view in self.world.services.values()}:
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS,
                f"name conflicts with an existing object: service {request.spec.name} already exists",
            )
        return control.Created(id="s" * 25, revision=42, warnings=["a warning"])

    async def Get(self, request: control.GetRequest, context: Context) -> control.ServiceView:
        return await self._find(request.ref, context)

    async def List(self, request: control.ListRequest, context: Context) -> control.ListServicesResponse:
        self.world.requests.append(request)
        for item in request.filters:
            if item.key not in ("id", "label", "mode", "name"):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"invalid filter '{item.key}'")
        return control.ListServicesResponse(services=list(self.world.services.values()), revision=42)

    async def Update(self, request: control.UpdateServiceRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        if self.world.conflicts:
            self.world.conflicts -= 1
            await context.abort(grpc.StatusCode.ABORTED, "update out of sequence")
        return control.Changed(revision=43)

    async def Scale(self, request: control.ScaleServiceRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        await self._find(request.ref, context)
        return control.Changed(revision=44)

    async def Remove(self, request: control.RemoveServiceRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        await self._find(request.ref, context)
        return control.Changed(revision=45)

    async def RollBack(self, request: control.RollBackServiceRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        await self._find(request.ref, context)
        return control.Changed(revision=46)

    async def Pause(self, request: control.PauseServiceRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        await self._find(request.ref, context)
        return control.Changed(revision=47)

    async def History(self, request: control.GetRequest, context: Context) -> control.ServiceHistory:
        self.world.requests.append(request)
        await self._find(request.ref, context)
        return control.ServiceHistory()


class _Tasks(control_pb2_grpc.TasksServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Get(self, request: control.GetRequest, context: Context) -> control.TaskView:
        for view in self.world.tasks:
            if view.task.id == request.ref:
                return view
        await context.abort(grpc.StatusCode.NOT_FOUND, f"task {request.ref} not found")
        raise AssertionError("abort returned")

    async def List(self, request: control.ListRequest, context: Context) -> control.ListTasksResponse:
        self.world.requests.append(request)
        return control.ListTasksResponse(tasks=self.world.tasks, revision=42)

    async def Why(self, request: control.GetRequest, context: Context) -> control.WhyResponse:
        self.world.requests.append(request)
        return canned.why()

    async def WatchService(
        self, request: control.WatchServiceRequest, context: Context
    ) -> AsyncIterator[control.ServiceProgress]:
        self.world.requests.append(request)
        try:
            for change in self.world.progress:
                yield change
            if self.world.hold_progress:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.world.canceled.set()
            raise


class _Nodes(control_pb2_grpc.NodesServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Get(self, request: control.GetRequest, context: Context) -> control.NodeView:
        for view in self.world.nodes:
            if request.ref in (view.node.id, view.status.description.hostname):
                return view
        await context.abort(grpc.StatusCode.NOT_FOUND, f"node {request.ref} not found")
        raise AssertionError("abort returned")

    async def List(self, request: control.ListRequest, context: Context) -> control.ListNodesResponse:
        return control.ListNodesResponse(nodes=self.world.nodes, revision=42)

    async def Update(self, request: control.UpdateNodeRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        return control.Changed(revision=43)

    async def Remove(self, request: control.RemoveNodeRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        if not request.force:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"node {request.ref} is not down and can't be removed",
            )
        return control.Changed(revision=43)


class _Networks(control_pb2_grpc.NetworksServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Create(self, request: control.CreateNetworkRequest, context: Context) -> control.Created:
        self.world.requests.append(request)
        return control.Created(id=canned.NETWORK_ID, revision=43)

    async def Remove(self, request: control.RemoveNetworkRequest, context: Context) -> control.Changed:
        network = await self.Get(control.GetRequest(ref=request.ref), context)
        self.world.requests.append(request)
        if network.spec.ingress:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "ingress network cannot be removed")
        return control.Changed(revision=43)

    async def Connect(self, request: control.ConnectNetworkRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        return control.Changed(revision=43)

    async def Disconnect(
        self, request: control.DisconnectNetworkRequest, context: Context
    ) -> control.Changed:
        self.world.requests.append(request)
        return control.Changed(revision=43)

    async def Prune(
        self, request: control.PruneNetworksRequest, context: Context
    ) -> control.PruneNetworksResponse:
        self.world.requests.append(request)
        return control.PruneNetworksResponse(removed=self.world.networks[1:], revision=43)

    async def GetDetails(self, request: control.GetRequest, context: Context) -> control.NetworkView:
        return canned.network_view(await self.Get(request, context))

    async def Get(self, request: control.GetRequest, context: Context) -> objects.Network:
        for network in self.world.networks:
            if request.ref in (network.id, network.spec.name):
                return network
        await context.abort(grpc.StatusCode.NOT_FOUND, f"network {request.ref} not found")
        raise AssertionError("abort returned")

    async def List(self, request: control.ListRequest, context: Context) -> control.ListNetworksResponse:
        return control.ListNetworksResponse(networks=self.world.networks, revision=42)


class _Clusters(control_pb2_grpc.ClustersServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Get(self, request: control.GetClusterRequest, context: Context) -> control.ClusterInfo:
        return canned.cluster_info()

    async def Update(self, request: control.UpdateClusterRequest, context: Context) -> control.Changed:
        self.world.requests.append(request)
        return control.Changed(revision=43)

    async def JoinToken(
        self, request: control.JoinTokenRequest, context: Context
    ) -> control.JoinTokenResponse:
        self.world.requests.append(request)
        return control.JoinTokenResponse(token=f"SWMTKN-1-{'a' * 50}-{'b' * 25}", address="10.77.0.11:2377")


class _LocalNode(node_pb2_grpc.LocalNodeServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Info(self, request: node_pb2.InfoRequest, context: Context) -> node_pb2.LocalInfo:
        return canned.local_info()

    async def Init(self, request: node_pb2.InitRequest, context: Context) -> node_pb2.InitResponse:
        self.world.requests.append(request)
        return node_pb2.InitResponse(
            node_id="n" * 25, worker_token=f"SWMTKN-1-{'a' * 50}-{'b' * 25}", join_address="10.77.0.11:2377"
        )

    async def Unlock(
        self, request: node_pb2.UnlockNodeRequest, context: Context
    ) -> node_pb2.UnlockNodeResponse:
        self.world.requests.append(request)
        return node_pb2.UnlockNodeResponse()

    async def Join(
        self, request: node_pb2.JoinClusterRequest, context: Context
    ) -> node_pb2.JoinClusterResponse:
        self.world.requests.append(request)
        if not request.token:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "token: expected SWMTKN-1-…, found nothing")
        return node_pb2.JoinClusterResponse(node_id="m" * 25, role=objects.NODE_ROLE_WORKER)

    async def Leave(
        self, request: node_pb2.LeaveClusterRequest, context: Context
    ) -> node_pb2.LeaveClusterResponse:
        self.world.requests.append(request)
        return node_pb2.LeaveClusterResponse()

    async def Restore(
        self, request_iterator: AsyncIterator[node_pb2.RestoreChunk], context: Context
    ) -> node_pb2.RestoreResponse:
        """Takes no backup: a real daemon does, in `tests/integration/node/test_backup.py`."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this node is part of a swarm")
        raise AssertionError("abort raises")


class _Images(node_pb2_grpc.ImagesServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Load(
        self, request_iterator: AsyncIterator[node_pb2.LoadImageChunk], context: Context
    ) -> node_pb2.LoadImageResponse:
        async for chunk in request_iterator:
            if chunk.data.startswith(b"bad"):
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "not an image archive: 100% wrong\nreally"
                )
            self.world.uploaded += chunk.data
        return node_pb2.LoadImageResponse(loaded=["whoami:1", "sha256:" + "0" * 64])

    async def List(
        self, request: node_pb2.ListImagesRequest, context: Context
    ) -> node_pb2.ListImagesResponse:
        return node_pb2.ListImagesResponse(images=self.world.images)

    async def Resolve(
        self, request: node_pb2.ResolveImageRequest, context: Context
    ) -> node_pb2.ResolveImageResponse:
        self.world.resolving.append(request)
        if request.ref not in self.world.resolved:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "registry docker.io does not answer")
        return self.world.resolved[request.ref]

    async def Remove(
        self, request: node_pb2.RemoveImageRequest, context: Context
    ) -> node_pb2.RemoveImageResponse:
        self.world.requests.append(request)
        if request.ref == "none":
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such image: none:latest")
        return node_pb2.RemoveImageResponse(untagged=[request.ref], deleted=["sha256:" + "0" * 64])

    async def Pull(
        self, request: node_pb2.PullImageRequest, context: Context
    ) -> AsyncIterator[node_pb2.PullImageProgress]:
        self.world.requests.append(request)
        if request.ref == "none:latest":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "manifest unknown: none")
        yield node_pb2.PullImageProgress(status="pulling")
        done = node_pb2.PulledImage(reference=f"reg/{request.ref}", digest="sha256:" + "d" * 64, fresh=True)
        yield node_pb2.PullImageProgress(done=done)

    async def Push(
        self, request: node_pb2.PushImageRequest, context: Context
    ) -> AsyncIterator[node_pb2.PushImageProgress]:
        self.world.requests.append(request)
        yield node_pb2.PushImageProgress(status="abc: Pushed")
        yield node_pb2.PushImageProgress(done=node_pb2.PushedImage(digest="sha256:" + "d" * 64, size_bytes=7))

    async def Save(
        self, request: node_pb2.SaveImagesRequest, context: Context
    ) -> AsyncIterator[node_pb2.SaveImagesChunk]:
        if "none" in request.refs:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "No such image: none:latest")
        yield node_pb2.SaveImagesChunk(data=b"arch")
        yield node_pb2.SaveImagesChunk(data=b"ive")

    async def Tag(self, request: node_pb2.TagImageRequest, context: Context) -> node_pb2.TagImageResponse:
        self.world.requests.append(request)
        return node_pb2.TagImageResponse()

    async def Prune(
        self, request: node_pb2.PruneImagesRequest, context: Context
    ) -> node_pb2.PruneImagesResponse:
        self.world.requests.append(request)
        return node_pb2.PruneImagesResponse(untagged=["a:1"], deleted=["sha256:1"], freed_bytes=2_000_000)


class _Volumes(node_pb2_grpc.VolumesServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def _find(self, name: str, context: Context) -> node_pb2.Volume:
        if name not in self.world.volumes:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"get {name}: no such volume")
        return self.world.volumes[name]

    async def Create(self, request: node_pb2.CreateVolumeRequest, context: Context) -> node_pb2.Volume:
        self.world.requests.append(request)
        return node_pb2.Volume(name=request.name or "f" * 64, labels=request.labels)

    async def Get(self, request: node_pb2.GetVolumeRequest, context: Context) -> node_pb2.Volume:
        return await self._find(request.name, context)

    async def List(
        self, request: node_pb2.ListVolumesRequest, context: Context
    ) -> node_pb2.ListVolumesResponse:
        return node_pb2.ListVolumesResponse(volumes=self.world.volumes.values())

    async def Remove(
        self, request: node_pb2.RemoveVolumeRequest, context: Context
    ) -> node_pb2.RemoveVolumeResponse:
        volume = await self._find(request.name, context)
        if volume.used_by:
            users = ", ".join(volume.used_by)
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"remove {volume.name}: volume is in use - [{users}]"
            )
        del self.world.volumes[request.name]
        return node_pb2.RemoveVolumeResponse(freed_bytes=2_000_000)


class _Containers:
    """Every command echoes what it is told, and ends with 7."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def Exec(
        self, request_iterator: AsyncIterator[streams_pb2.ExecInput], context: Context
    ) -> AsyncIterator[streams_pb2.StreamOutput]:
        ended = False
        try:
            async for message in request_iterator:
                if message.HasField("start"):
                    self._world.requests.append(message.start)
                    yield streams_pb2.StreamOutput(started=streams_pb2.Done())
                elif message.input.HasField("end"):
                    ended = True
                    yield streams_pb2.StreamOutput(exited=streams_pb2.Exited(code=7))
                    return
                else:
                    yield streams_pb2.StreamOutput(stdout=message.input.data)
        finally:
            if not ended:
                self._world.canceled.set()


class ControlServer:
    """A running server; use it as a context manager."""

    def __init__(
        self, world: World, addresses: Iterable[str], *, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.world = world
        self.ports: list[int] = []
        self._addresses = list(addresses)
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control server", daemon=True)
        self._server: grpc.aio.Server | None = None

    def __enter__(self) -> ControlServer:
        self._thread.start()
        self._do(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Callable[[], Any]) -> None:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        future.result(30)

    async def _start(self) -> None:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.aio.server(options=unlimited)
        control_pb2_grpc.add_ServicesServicer_to_server(_Services(self.world), server)
        control_pb2_grpc.add_TasksServicer_to_server(_Tasks(self.world), server)
        control_pb2_grpc.add_NodesServicer_to_server(_Nodes(self.world), server)
        control_pb2_grpc.add_NetworksServicer_to_server(_Networks(self.world), server)
        control_pb2_grpc.add_ClustersServicer_to_server(_Clusters(self.world), server)
        node_pb2_grpc.add_LocalNodeServicer_to_server(_LocalNode(self.world), server)
        node_pb2_grpc.add_ImagesServicer_to_server(_Images(self.world), server)
        node_pb2_grpc.add_VolumesServicer_to_server(_Volumes(self.world), server)
        execute = grpc.stream_stream_rpc_method_handler(
            _Containers(self.world).Exec,
            request_deserializer=streams_pb2.ExecInput.FromString,
            response_serializer=streams_pb2.StreamOutput.SerializeToString,
        )
        containers = grpc.method_handlers_generic_handler("mini.v1.Containers", {"Exec": execute})
        server.add_generic_rpc_handlers((containers,))
        for address in self._addresses:
            if self._credentials is None:
                self.ports.append(server.add_insecure_port(address))
            else:
                self.ports.append(server.add_secure_port(address, self._credentials))
        await server.start()
        self._server = server

    async def _stop(self) -> None:
        assert self._server is not None
        await self._server.stop(None)


def unix_server(directory: Path, world: World) -> ControlServer:
    """A server on `<directory>/mini.sock`."""
    return ControlServer(world, [f"unix:{directory / 'mini.sock'}"])
