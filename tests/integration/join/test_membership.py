"""The control port: who gets in, renewal, leaving, and certificates that are replaced while it serves."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minicommon.clock import SECOND, SystemClock, VirtualClock
from minicommon.errors import MiniError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from minicommon.identity import pem
from minicommon.identity.authority import (
    HOUR,
    Authority,
    Subject,
    client_subject,
    issue_with_key,
    new_cluster_root,
    node_subject,
)
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.paths import NodePaths
from minicommon.rpc.channel import join_channel, manager_channel
from minicommon.rpc.credentials import CredentialFiles, NodeCredentials
from minicommon.rpc.errors import ours
from minicommon.rpc.join_client import join
from minicommon.rpc.tls_probe import presented_chain
from minimanager.domain.objects import NodeRole, NodeState
from miniproto.v1 import join_pb2, join_pb2_grpc
from support.join_site import JoinSite, join_site

CLOCK = SystemClock()


async def _member(site: JoinSite) -> NodeCredentials:
    joined = await join([site.join_address], site.token(), hostname="n2", clock=CLOCK)
    return NodeCredentials(joined.key_pem, joined.certificate_pem, joined.root_ca_pem)


def _credentials(site: JoinSite, subject: Subject, root: Authority | None = None) -> NodeCredentials:
    pair = issue_with_key(root or site.root, subject, now_ns=CLOCK.now_ns())
    return NodeCredentials(pair.key_pem, pair.certificate_pem, site.root.certificate_pem)


async def _renew(site: JoinSite, credentials: NodeCredentials) -> join_pb2.RenewCertificateResponse:
    request = join_pb2.RenewCertificateRequest(csr_pem=new_request().csr_pem)
    async with manager_channel(site.control_address, credentials) as channel:
        with ours():
            return await join_pb2_grpc.MembershipStub(channel).RenewCertificate(request)


async def _leave(site: JoinSite, credentials: NodeCredentials) -> None:
    async with manager_channel(site.control_address, credentials) as channel:
        with ours():
            await join_pb2_grpc.MembershipStub(channel).Leave(join_pb2.LeaveRequest())


async def test_a_member_renews_its_certificate(site: JoinSite) -> None:
    credentials = await _member(site)
    node_id = identity_of(credentials.certificate_pem).node_id
    answer = await _renew(site, credentials)
    assert answer.certificate_pem != credentials.certificate_pem
    identity = identity_of(answer.certificate_pem)
    assert (identity.node_id, identity.caller) == (node_id, Caller.WORKER)
    assert answer.root_ca_pem == site.root.certificate_pem


async def test_the_cluster_knows_until_when_a_nodes_newest_certificate_is_valid(site: JoinSite) -> None:
    credentials = await _member(site)
    identity = identity_of(credentials.certificate_pem)
    node = (await site.core.settle()).nodes[identity.node_id]
    assert node.certificate_expires_at_ns == identity.not_after_ns
    longer = replace(site.cluster.spec, certificate_lifetime_ns=2 * site.cluster.spec.certificate_lifetime_ns)
    await site.change(replace(site.cluster, spec=longer))
    renewed = identity_of((await _renew(site, credentials)).certificate_pem)
    node = (await site.core.settle()).nodes[identity.node_id]
    assert node.certificate_expires_at_ns == renewed.not_after_ns > identity.not_after_ns


async def test_a_renewed_certificate_has_the_nodes_present_role(site: JoinSite) -> None:
    credentials = await _member(site)
    node = site.core.cache.snapshot().nodes[identity_of(credentials.certificate_pem).node_id]
    promoted = replace(node, spec=replace(node.spec, role=NodeRole.MANAGER))
    await site.core.commit(site.core.writer.begin().replace(promoted))
    answer = await _renew(site, credentials)
    assert identity_of(answer.certificate_pem).caller is Caller.MANAGER


async def test_a_node_that_leaves_is_down_at_once(site: JoinSite) -> None:
    credentials = await _member(site)
    node_id = identity_of(credentials.certificate_pem).node_id
    await _leave(site, credentials)
    status = (await site.core.settle()).node_statuses[node_id]
    assert status.state is NodeState.DOWN
    assert status.message == "the node left the cluster"
    await _leave(site, credentials)  # again is no error


# --- who does not get in ---


@pytest.mark.parametrize(
    ("subject", "error", "words"),
    [
        (("stranger", "swarm-worker"), PermissionDeniedError, "node stranger is not in the cluster"),
        (("alice", "swarm-client-admin"), PermissionDeniedError, "the caller is admin alice"),
        (("n", "something"), MiniError, "OU must be one of"),
    ],
)
async def test_who_is_no_member_is_refused(
    site: JoinSite, subject: tuple[str, str], error: type[MiniError], words: str
) -> None:
    credentials = _credentials(site, Subject(*subject, organization=site.cluster.id))
    with pytest.raises(error, match=words):
        await _renew(site, credentials)


async def test_a_certificate_of_another_cluster_under_the_same_root_is_refused(site: JoinSite) -> None:
    credentials = _credentials(site, node_subject("n", manager=True, cluster_id="other"))
    with pytest.raises(PermissionDeniedError, match="belongs to cluster other"):
        await _renew(site, credentials)


async def test_a_certificate_of_another_root_opens_no_connection(site: JoinSite) -> None:
    other = new_cluster_root(CLOCK.now_ns())
    credentials = _credentials(site, node_subject("n", manager=True, cluster_id=site.cluster.id), other)
    with pytest.raises(UnavailableError):
        await _renew(site, credentials)


async def test_no_certificate_opens_no_connection(site: JoinSite) -> None:
    async with join_channel(site.control_address, site.root.certificate_pem) as channel:
        with pytest.raises(UnavailableError), ours():
            await join_pb2_grpc.MembershipStub(channel).Leave(join_pb2.LeaveRequest())


async def test_a_removed_node_is_refused_on_its_open_connection_too(site: JoinSite) -> None:
    credentials = await _member(site)
    node_id = identity_of(credentials.certificate_pem).node_id
    request = join_pb2.RenewCertificateRequest(csr_pem=new_request().csr_pem)
    async with manager_channel(site.control_address, credentials) as channel:
        stub = join_pb2_grpc.MembershipStub(channel)
        await stub.RenewCertificate(request)
        await site.remove_node(node_id)
        with pytest.raises(PermissionDeniedError, match=f"node {node_id} was removed"), ours():
            await stub.RenewCertificate(request)


async def test_a_certificate_that_expires_is_refused_on_its_open_connection_too() -> None:
    clock = VirtualClock(time.time_ns())
    async with join_site(clock) as site:
        credentials = await _member(site)
        request = join_pb2.RenewCertificateRequest(csr_pem=new_request().csr_pem)
        async with manager_channel(site.control_address, credentials) as channel:
            stub = join_pb2_grpc.MembershipStub(channel)
            await stub.RenewCertificate(request)
            clock.advance(site.cluster.spec.certificate_lifetime_ns + SECOND)
            with pytest.raises(UnauthenticatedError, match="has expired since"), ours():
                await stub.RenewCertificate(request)


async def test_a_client_certificate_sees_the_health(site: JoinSite) -> None:
    subject = client_subject("alice", role=Caller.VIEWER, cluster_id=site.cluster.id)
    async with manager_channel(site.control_address, _credentials(site, subject)) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_join_port_serves_nothing_but_joining(site: JoinSite) -> None:
    async with join_channel(site.join_address, site.root.certificate_pem) as channel:
        for call in (
            join_pb2_grpc.MembershipStub(channel).Leave(join_pb2.LeaveRequest()),
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- replaced while serving ---


async def test_a_manager_shows_its_renewed_certificate_without_a_restart(
    site: JoinSite, tmp_path: Path
) -> None:
    paths = NodePaths(tmp_path)
    paths.swarm_dir.mkdir()
    files = (
        (paths.node_key, "key_pem"),
        (paths.node_certificate, "certificate_pem"),
        (paths.root_ca, "root_ca_pem"),
    )

    def put(credentials: NodeCredentials) -> None:
        for path, name in files:
            pem.write(path, getattr(credentials, name))

    put(site.credentials)
    load = CredentialFiles(paths)
    site.credentials = load()
    assert load() is site.credentials
    before = (await presented_chain(site.control_address))[0]
    subject = node_subject(site.core.node_id, manager=True, cluster_id=site.cluster.id)
    pair = issue_with_key(site.root, subject, now_ns=CLOCK.now_ns(), lifetime_ns=HOUR)
    pem.write(paths.node_key, pair.key_pem)
    assert load() is site.credentials  # half replaced: the pair that fits stays
    pem.write(paths.node_certificate, pair.certificate_pem)
    site.credentials = load()
    after = (await presented_chain(site.control_address))[0]
    assert before.serial_number != after.serial_number
    assert pem.of_certificate(after) == pair.certificate_pem
