"""A change of the cluster's root: real TLS, nobody is cut off, and the old root is worth nothing at the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from minicommon.clock import SystemClock
from minicommon.identity import tokens
from minicommon.identity.authority import issue_with_key, new_cluster_root, new_root, node_subject
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials
from miniproto.v1 import control_pb2, security_pb2
from support.following_node import joined_with, manager_node, running, worker_node
from support.manager import Client, InProcess

CLOCK = SystemClock()


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
