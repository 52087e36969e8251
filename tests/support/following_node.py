"""A node as far as its certificate goes: it follows what the managers say of roots, over one session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import grpc
from minicommon.clock import SystemClock
from minicommon.paths import NodePaths
from minicommon.rpc.join_client import Joined, join
from minicommon.supervise import Supervisor
from miniproto.v1 import dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2
from miniworker.node.certificates import UNIX, CertificateFiles, Renewal
from support.manager import Reachable

_CLOCK = SystemClock()
_NODE = objects_pb2.NodeDescription(hostname="n", os="linux", architecture="x86_64")


class FollowingNode:
    """A node, as far as its certificate goes: a session that follows what the manager says of roots."""

    def __init__(self, paths: NodePaths, manager: Reachable, *, own_manager: bool = False) -> None:
        self._manager = manager
        self.files = CertificateFiles(paths)
        self._address = f"127.0.0.1:{manager.control_port}"
        authorities = (f"{UNIX}{manager.home.paths.manager_socket}",) if own_manager else (self._address,)
        self.renewal = Renewal(self.files, managers=lambda: authorities, clock=_CLOCK, random=Random(1))
        self.renewal.changed = self._changed
        self._news: asyncio.Queue[dispatcher_pb2.WorkerMessage] = asyncio.Queue()

    def _changed(self) -> None:
        self._news.put_nowait(dispatcher_pb2.WorkerMessage(certificate=self.files.description()))

    async def run(self) -> None:
        """One session for the whole life: it must never be cut."""
        hello = dispatcher_pb2.Hello(
            description=_NODE, data_path_address="127.0.0.1", certificate=self.files.description()
        )
        async with self.files.dial(self._address) as channel, Supervisor() as group:
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            group.start_eternal("renewal", self.renewal.run())
            await call.write(dispatcher_pb2.WorkerMessage(hello=hello))
            group.start_eternal("tell", self._tell(call))
            while True:
                message = await call.read()
                assert isinstance(message, dispatcher_pb2.ManagerMessage), await call.details()
                if message.HasField("trust"):
                    self.renewal.trust(message.trust)

    async def _tell(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        while True:
            await call.write(await self._news.get())


@contextlib.asynccontextmanager
async def running(node: FollowingNode) -> AsyncIterator[FollowingNode]:
    task = asyncio.create_task(node.run())
    try:
        yield node
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def manager_node(manager: Reachable) -> FollowingNode:
    return FollowingNode(manager.home.paths, manager, own_manager=True)


async def worker_node(manager: Reachable, directory: Path, token: str) -> FollowingNode:
    joined = await joined_with(manager, token)
    paths = NodePaths(directory)
    await asyncio.to_thread(_write, paths, joined)
    return FollowingNode(paths, manager)


def _write(paths: NodePaths, joined: Joined) -> None:
    paths.swarm_dir.mkdir(parents=True)
    paths.root_ca.write_bytes(joined.root_ca_pem)
    paths.node_certificate.write_bytes(joined.certificate_pem)
    paths.node_key.write_bytes(joined.key_pem)


async def joined_with(manager: Reachable, token: str) -> Joined:
    return await join([f"127.0.0.1:{manager.join_port}"], token, hostname="n", clock=_CLOCK)
