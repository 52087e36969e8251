"""A change of the cluster's root: real TLS, nobody is cut off, and the old root is worth nothing at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import grpc
import pytest
from minicommon.clock import SystemClock
from minicommon.identity import tokens
from minicommon.identity.authority import issue_with_key, new_cluster_root, new_root, node_subject
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.paths import NodePaths
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials
from minicommon.rpc.join_client import Joined, join
from minicommon.supervise import Supervisor
from miniproto.v1 import control_pb2, dispatcher_pb2, dispatcher_pb2_grpc, objects_pb2, security_pb2
from miniworker.node.certificates import UNIX, CertificateFiles, Renewal
from support.manager import Client, InProcess

CLOCK = SystemClock()
NODE = objects_pb2.NodeDescription(hostname="n", os="linux", architecture="x86_64")


class Node:
    """A node, as far as its certificate goes: a session that follows what the manager says of roots."""

    def __init__(self, paths: NodePaths, manager: InProcess, *, own_manager: bool = False) -> None:
        self._manager = manager
        self.files = CertificateFiles(paths)
        self._address = f"127.0.0.1:{manager.control_port}"
        authorities = (f"{UNIX}{manager.home.paths.manager_socket}",) if own_manager else (self._address,)
        self.renewal = Renewal(self.files, managers=lambda: authorities, clock=CLOCK, random=Random(1))
        self.renewal.changed = self._changed
        self._news: asyncio.Queue[dispatcher_pb2.WorkerMessage] = asyncio.Queue()

    def _changed(self) -> None:
        self._news.put_nowait(dispatcher_pb2.WorkerMessage(certificate=self.files.description()))

    async def run(self) -> None:
        """One session for the whole life: it must never be cut."""
        hello = dispatcher_pb2.Hello(
            description=NODE, data_path_address="127.0.0.1", certificate=self.files.description()
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
async def running(node: Node) -> AsyncIterator[Node]:
    task = asyncio.create_task(node.run())
    try:
        yield node
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def manager_node(manager: InProcess) -> Node:
    return Node(manager.home.paths, manager, own_manager=True)


async def worker_node(manager: InProcess, directory: Path, token: str) -> Node:
    joined = await joined_with(manager, token)
    paths = NodePaths(directory)
    await asyncio.to_thread(_write, paths, joined)
    return Node(paths, manager)


def _write(paths: NodePaths, joined: Joined) -> None:
    paths.swarm_dir.mkdir(parents=True)
    paths.root_ca.write_bytes(joined.root_ca_pem)
    paths.node_certificate.write_bytes(joined.certificate_pem)
    paths.node_key.write_bytes(joined.key_pem)


async def joined_with(manager: InProcess, token: str) -> Joined:
    return await join([f"127.0.0.1:{manager.join_port}"], token, hostname="n", clock=CLOCK)


async def worker_token(local: Client) -> str:
    return (await local.clusters.JoinToken(control_pb2.JoinTokenRequest())).token


async def until_done(local: Client) -> security_pb2.RootInfo:
    async with asyncio.timeout(60):
        while True:
            info = await local.root.Get(security_pb2.GetRootRequest())
            if not info.rotating and not info.waiting:
                return info
            await asyncio.sleep(0.05)


async def statuses(local: Client) -> set[str]:
    return {view.tls_status for view in (await local.nodes.List(control_pb2.ListRequest())).nodes}


async def test_a_rotation_from_begin_to_end(manager: InProcess, local: Client, tmp_path: Path) -> None:
    old_root = manager.home.root
    token = await worker_token(local)
    worker = await worker_node(manager, tmp_path / "w", token)
    async with running(manager_node(manager)), running(worker):
        await until_done(local)
        assert await statuses(local) == {"Ready"}
        late = await joined_with(manager, token)  # joined, but not there: the rotation waits for it
        await local.root.Rotate(security_pb2.RotateRootRequest())
        waiting = await _until_waiting_for(local, late.node_id)
        assert (waiting.nodes, waiting.certificates) == (3, 2)
        assert waiting.next_digest != waiting.digest
        assert await statuses(local) == {"Ready", "Unknown"}

        # meanwhile both kinds of nodes come in, and the old token still works
        during = await joined_with(manager, token)
        assert during.root_ca_pem.count(b"BEGIN CERTIFICATE") == 2
        assert during.certificate_pem.count(b"BEGIN CERTIFICATE") == 2
        for gone in (late.node_id, during.node_id):
            await local.nodes.Remove(control_pb2.RemoveNodeRequest(ref=gone, force=True))
        info = await until_done(local)
        assert info.root_ca_pem != old_root.certificate_pem
        assert await statuses(local) == {"Ready"}

        # the old root and its tokens are worth nothing
        with pytest.raises(Exception, match="does not match fingerprint"):
            await joined_with(manager, token)
        new_token = await worker_token(local)
        assert tokens.parse(new_token).is_of(info.root_ca_pem)
        joined = await joined_with(manager, new_token)
        assert joined.root_ca_pem == info.root_ca_pem
        subject = node_subject("forged", manager=True, cluster_id=manager.home.settings.cluster_id)
        forged = issue_with_key(old_root, subject, now_ns=CLOCK.now_ns())
        credentials = NodeCredentials(forged.key_pem, forged.certificate_pem, info.root_ca_pem)
        async with manager_channel(f"127.0.0.1:{manager.control_port}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Client(channel).nodes.List(control_pb2.ListRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def _until_waiting_for(local: Client, node_id: str) -> security_pb2.RootInfo:
    async with asyncio.timeout(60):
        while True:
            info = await local.root.Get(security_pb2.GetRootRequest())
            if list(info.waiting) == [node_id]:
                return info
            await asyncio.sleep(0.05)


async def test_a_second_rotation_follows_the_first_and_not_at_once(manager: InProcess, local: Client) -> None:
    async with running(manager_node(manager)):
        seen = {(await until_done(local)).digest}
        for _ in range(2):
            await local.root.Rotate(security_pb2.RotateRootRequest())
            seen.add((await until_done(local)).digest)
        assert len(seen) == 3


async def test_a_rotation_that_waits_refuses_another(local: Client) -> None:
    await local.root.Rotate(security_pb2.RotateRootRequest())
    with pytest.raises(grpc.aio.AioRpcError, match="is going on"):
        await local.root.Rotate(security_pb2.RotateRootRequest())


async def test_a_root_made_elsewhere(manager: InProcess, local: Client) -> None:
    root = new_root("my-ca", CLOCK.now_ns())
    async with running(manager_node(manager)) as node:
        await local.root.Rotate(
            security_pb2.RotateRootRequest(ca_certificate_pem=root.certificate_pem, ca_key_pem=root.key_pem)
        )
        info = await until_done(local)
        assert info.root_ca_pem == root.certificate_pem
        assert node.files.trusted_roots() == root.certificate_pem
    joined = await joined_with(manager, await worker_token(local))
    assert identity_of(joined.certificate_pem).node_id == joined.node_id


@pytest.mark.parametrize("case", ["no key", "another key", "a leaf", "rubbish", "the same"])
async def test_what_cannot_be_a_root(manager: InProcess, local: Client, case: str) -> None:
    root, other = new_root("my-ca", CLOCK.now_ns()), new_cluster_root(CLOCK.now_ns())
    leaf = issue_with_key(root, node_subject("n", manager=True, cluster_id="c"), now_ns=CLOCK.now_ns())
    certificate, key, words = {
        "no key": (root.certificate_pem, b"", "must be given together"),
        "another key": (root.certificate_pem, other.key_pem, "must be the key of the CA certificate"),
        "a leaf": (leaf.certificate_pem, leaf.key_pem, "must be one of an authority"),
        "rubbish": (b"x", root.key_pem, "must be PEM"),
        "the same": (
            manager.home.root.certificate_pem,
            manager.home.root.key_pem,
            "is for the key that the cluster's root has already",
        ),
    }[case]
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await local.root.Rotate(
            security_pb2.RotateRootRequest(ca_certificate_pem=certificate, ca_key_pem=key)
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_client_certificates_of_the_old_root_are_counted(manager: InProcess, local: Client) -> None:
    request = security_pb2.IssueClientRequest(name="alice", csr_pem=new_request().csr_pem)
    await local.clients.Issue(request)
    assert (await local.root.Get(security_pb2.GetRootRequest())).clients == 0
    await local.root.Rotate(security_pb2.RotateRootRequest())
    assert (await local.root.Get(security_pb2.GetRootRequest())).clients == 1
