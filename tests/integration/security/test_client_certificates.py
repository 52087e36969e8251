"""Certificates of people and programs: what they allow, and that revoked ones allow nothing."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from minicommon.clock import SECOND
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials
from miniproto.v1 import control_pb2, objects_pb2, security_pb2
from support.manager import Client, InProcess

VIEWER = objects_pb2.CLIENT_ROLE_VIEWER
OPERATOR = objects_pb2.CLIENT_ROLE_OPERATOR
ADMIN = objects_pb2.CLIENT_ROLE_ADMIN


async def issue(
    local: Client, name: str, role: objects_pb2.ClientRole.ValueType, *, lifetime_ns: int = 0
) -> tuple[security_pb2.IssueClientResponse, NodeCredentials]:
    made = new_request()
    request = security_pb2.IssueClientRequest(
        name=name, role=role, csr_pem=made.csr_pem, lifetime_ns=lifetime_ns
    )
    answer = await local.clients.Issue(request)
    return answer, NodeCredentials(made.key_pem, answer.certificate_pem, answer.root_ca_pem)


def channel(manager: InProcess, credentials: NodeCredentials) -> grpc.aio.Channel:
    return manager_channel(f"127.0.0.1:{manager.control_port}", credentials)


async def scale(client: Client) -> grpc.StatusCode:
    """What comes of an operator's work on a service that does not exist."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.services.Scale(control_pb2.ScaleServiceRequest(ref="nope", replicas=1))
    return caught.value.code()


async def test_each_role_may_do_what_it_says(manager: InProcess, local: Client) -> None:
    outcomes = {}
    for role in (VIEWER, OPERATOR, ADMIN):
        _, credentials = await issue(local, "alice", role)
        async with channel(manager, credentials) as connection:
            client = Client(connection)
            await client.nodes.List(control_pb2.ListRequest())
            scaled = await scale(client)
            try:
                await client.clusters.JoinToken(control_pb2.JoinTokenRequest())
                token = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                token = error.code()
            outcomes[role] = (scaled, token)
    found, denied = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
    assert outcomes == {
        VIEWER: (denied, denied),
        OPERATOR: (found, denied),
        ADMIN: (found, grpc.StatusCode.OK),
    }


async def test_a_certificate_says_who_and_until_when(local: Client) -> None:
    answer, credentials = await issue(local, "alice", OPERATOR, lifetime_ns=600 * SECOND)
    identity = identity_of(credentials.certificate_pem)
    assert (identity.caller, identity.name) == (Caller.OPERATOR, "alice")
    assert identity.client_id == answer.client.id
    assert identity.not_after_ns == answer.client.expires_at_ns
    assert 500 < (answer.client.expires_at_ns - answer.client.meta.created_at_ns) / SECOND <= 600
    listed = await local.clients.List(security_pb2.ListClientsRequest())
    assert [client.id for client in listed.clients] == [answer.client.id]
    assert listed.clients[0].issuer == identity.issuer == listed.issuer


async def test_a_revoked_certificate_is_refused_on_open_connections_and_streams(
    manager: InProcess, local: Client
) -> None:
    service = control_pb2.CreateServiceRequest(
        spec=objects_pb2.ServiceSpec(
            name="web", task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="w:1"))
        )
    )
    await local.services.Create(service)
    _, credentials = await issue(local, "alice", OPERATOR)
    other, other_credentials = await issue(local, "bob", VIEWER)
    async with channel(manager, credentials) as connection, channel(manager, other_credentials) as second:
        client = Client(connection)
        watch = aiter(client.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web")))
        await anext(watch)
        await local.clients.Revoke(security_pb2.RevokeClientRequest(ref="alice"))
        with pytest.raises(grpc.aio.AioRpcError, match="was revoked") as caught:
            await client.nodes.List(control_pb2.ListRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError, match="was revoked") as caught:
            await asyncio.wait_for(anext(watch), 30)  # nothing changes that it would tell: it is ended
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await Client(second).nodes.List(control_pb2.ListRequest())).nodes
    revoked = await local.clients.Revoke(security_pb2.RevokeClientRequest(ref=other.client.id[:9]))
    assert [each.name for each in revoked.revoked] == ["bob"]


async def test_a_name_means_all_certificates_of_that_name(local: Client) -> None:
    for _ in range(2):
        await issue(local, "alice", VIEWER)
    answer = await local.clients.Revoke(security_pb2.RevokeClientRequest(ref="alice"))
    assert len(answer.revoked) == 2
    with pytest.raises(grpc.aio.AioRpcError, match="client certificate alice not found"):
        await local.clients.Revoke(security_pb2.RevokeClientRequest(ref="alice"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name: must be"),
        ({"name": "a/b"}, "name: must be"),
        ({"name": "x" * 65}, "name: must be"),
        ({"role": 9}, "role: must be"),
        ({"lifetime_ns": SECOND}, "expiry: must be"),
        ({"csr_pem": b"x"}, "csr_pem: must be"),
    ],
)
async def test_what_no_certificate_can_be(local: Client, fields: dict[str, object], words: str) -> None:
    given = {"name": "alice", "csr_pem": new_request().csr_pem} | fields
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await local.clients.Issue(security_pb2.IssueClientRequest(**given))  # type: ignore[arg-type]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_root_and_admins_issue(manager: InProcess) -> None:
    for caller in (Caller.WORKER, Caller.MANAGER, Caller.VIEWER, Caller.OPERATOR):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await issue(await manager.member(caller), "mallory", ADMIN)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
