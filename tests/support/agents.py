"""Real agents on runtimes in memory, connected to a manager in this process over mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from minicommon.clock import SystemClock
from minicommon.identity.authority import load_key
from minicommon.identity.names import Caller
from minicommon.rpc.channel import manager_channel
from miniproto.v1 import control_pb2, objects_pb2, streams_pb2_grpc
from miniworker.agent.agent import Agent, AgentIdentity, AgentParts
from miniworker.agent.content_files import ContentFiles
from miniworker.agent.deliveries import Signature
from miniworker.agent.ingress_client import IngressWant
from miniworker.agent.state import AgentState
from miniworker.network.fake import FakeDataPlane
from miniworker.runtime.fake import FakeRuntime
from support.content_files import PlainFileSystems
from support.manager import Client, InProcess
from support.runtimes import BEHAVIORS
from support.scripted_agent import PATIENCE

IMAGE = "busybox:latest"
MEMORY = 4 << 30


class IdleIngress:
    """Takes every table."""

    async def apply(self, want: IngressWant) -> None:
        return

    async def watch(self, lost: Callable[[], None]) -> None:
        await asyncio.Event().wait()


class AgentNode:
    """A node whose agent can be stopped and started again; its containers go on."""

    def __init__(self, manager: InProcess, node_id: str, hostname: str, directory: Path) -> None:
        self.node_id = node_id
        self.hostname = hostname
        self.runtime = FakeRuntime(BEHAVIORS, registry=(IMAGE,))
        self.contents = ContentFiles(directory / f"{hostname}.secrets", PlainFileSystems())
        self._manager = manager
        self._directory = directory
        self._running: asyncio.Task[None] | None = None
        self._state: AgentState | None = None

    async def start(self) -> None:
        """Returns when the manager knows the node as ready."""
        number = len(self.hostname)
        description = objects_pb2.NodeDescription(
            hostname=self.hostname,
            os="linux",
            architecture="x86_64",
            resources=objects_pb2.NodeResources(nano_cpus=4_000_000_000, memory_bytes=MEMORY),
        )
        self._state = AgentState(self._directory / f"{self.hostname}.db")
        agent = Agent(
            AgentIdentity(self.node_id, IPv4Address(f"10.77.0.{10 + number}"), description),
            AgentParts(
                runtime=self.runtime,
                images=self.runtime.images,
                data_plane=FakeDataPlane(),
                ingress=IdleIngress(),
                state=self._state,
                dial=self.dial,
                clock=SystemClock(),
                random=Random(1),
                contents=self.contents,
                sign=self.sign,
            ),
            managers=(f"127.0.0.1:{self._manager.control_port}",),
        )
        self._running = asyncio.create_task(agent.run())
        await asyncio.wait_for(agent.wait_synced(), PATIENCE)

    async def sign(self, text: bytes) -> Signature:
        """With a certificate of the node's, as the cluster's root has issued it."""
        credentials = self._manager.home.credentials(Caller.WORKER, self.node_id)
        value = load_key(credentials.key_pem).sign(text, ec.ECDSA(hashes.SHA256()))
        certificate = x509.load_pem_x509_certificate(credentials.certificate_pem)
        return Signature(value, certificate.public_bytes(Encoding.DER))

    def dial(self, address: str) -> grpc.aio.Channel:
        return manager_channel(address, self._manager.home.credentials(Caller.WORKER, self.node_id))

    async def stop(self) -> None:
        """The agent ends, as one that is killed."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        if self._state is not None:
            self._state.close()
            self._state = None


class Site:
    """A manager and some nodes."""

    def __init__(self, manager: InProcess, nodes: list[AgentNode], local: Client) -> None:
        self.manager = manager
        self.nodes = nodes
        self.local = local
        self.containers: Any = streams_pb2_grpc.ContainersStub(local.channel)

    def node(self, node_id: str) -> AgentNode:
        return next(node for node in self.nodes if node.node_id == node_id)

    async def create(
        self, name: str, command: tuple[str, ...], *, replicas: int = 1, image: str = IMAGE
    ) -> list[control_pb2.TaskView]:
        """A service that runs; its tasks by slot."""
        spec = objects_pb2.ServiceSpec(name=name, replicas=replicas)
        spec.task.container.image = image
        spec.task.container.command.extend(command)
        await self.local.services.Create(control_pb2.CreateServiceRequest(spec=spec))
        progress = await self.local.running(name, replicas)
        return sorted(progress.tasks, key=lambda view: view.task.slot)

    async def container_of(self, view: control_pb2.TaskView) -> FakeRuntime:
        """The runtime that has the task's container."""
        return self.node(view.task.node_id).runtime


@asynccontextmanager
async def site(manager: InProcess, directory: Path, count: int) -> AsyncIterator[Site]:
    """`count` worker nodes with their agents."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            node_id, _ = await manager.join_worker()
            node = AgentNode(manager, node_id, f"core-0{number + 1}" + "x" * number, directory)
            stack.push_async_callback(node.stop)
            await node.start()
            nodes.append(node)
        yield Site(manager, nodes, await manager.local())
