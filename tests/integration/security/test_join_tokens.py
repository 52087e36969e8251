"""Tokens of limited use: what they let in, and how each limit refuses."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.identity import tokens
from minicommon.identity.requests import new_request
from miniproto.v1 import control_pb2, join_pb2, objects_pb2, security_pb2
from support.manager import Client, InProcess, manager_in_process

HOUR_NS = 3600 * SECOND


async def create(local: Client, **fields: object) -> security_pb2.CreateTokenResponse:
    return await local.tokens.Create(security_pb2.CreateTokenRequest(**fields))  # type: ignore[arg-type]


async def join(manager: InProcess, token: str) -> join_pb2.IssueCertificateResponse:
    joiner = await manager.joiner()
    request = join_pb2.IssueCertificateRequest(csr_pem=new_request().csr_pem, token=token, hostname="n")
    return await joiner.join.IssueCertificate(request)


async def refusal(manager: InProcess, token: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await join(manager, token)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return caught.value.details() or ""


async def test_a_token_lets_in_as_many_nodes_as_it_has_uses(manager: InProcess, local: Client) -> None:
    made = await create(local, role=objects_pb2.NODE_ROLE_WORKER, label="ci", max_uses=3)
    assert tokens.parse(made.token).text == made.token  # Swarm's format
    outcomes = await asyncio.gather(*(join(manager, made.token) for _ in range(6)), return_exceptions=True)
    joined = [each for each in outcomes if isinstance(each, join_pb2.IssueCertificateResponse)]
    assert len(joined) == 3
    assert len({each.node_id for each in joined}) == 3
    assert {each.role for each in joined} == {objects_pb2.NODE_ROLE_WORKER}
    assert "its 3 uses are used up" in await refusal(manager, made.token)
    nodes = await local.nodes.List(control_pb2.ListRequest())
    assert len(nodes.nodes) == 1 + 3  # who was refused left nothing behind
    (listed,) = (await local.tokens.List(security_pb2.ListTokensRequest())).tokens
    assert (listed.label, listed.uses, listed.max_uses) == ("ci", 3, 3)
    assert not listed.secret_sha256


async def test_a_token_expires() -> None:
    clock = VirtualClock(time.time_ns())
    async with manager_in_process(clock=clock) as manager:
        made = await create(await manager.local(), ttl_ns=HOUR_NS)
        await join(manager, made.token)
        clock.advance(HOUR_NS)
        assert "this one expired at" in await refusal(manager, made.token)


async def test_a_revoked_token_lets_nobody_in_and_its_nodes_stay(manager: InProcess, local: Client) -> None:
    made = await create(local, label="ci")
    joined = await join(manager, made.token)
    await local.tokens.Revoke(security_pb2.RevokeTokenRequest(ref="ci"))
    assert "this one was revoked at" in await refusal(manager, made.token)
    assert (await local.nodes.Get(control_pb2.GetRequest(ref=joined.node_id))).node.id == joined.node_id
    await local.tokens.Revoke(security_pb2.RevokeTokenRequest(ref=made.issued.id))  # again is no error


async def test_rotating_the_clusters_own_token_leaves_others_alone(manager: InProcess, local: Client) -> None:
    made = await create(local)
    own = await local.clusters.JoinToken(control_pb2.JoinTokenRequest())
    await local.clusters.JoinToken(control_pb2.JoinTokenRequest(rotate=True))
    assert "unknown; was it rotated?" in await refusal(manager, own.token)
    await join(manager, made.token)


async def test_the_token_is_nowhere_in_the_store(manager: InProcess, local: Client) -> None:
    made = await create(local, label="ci")
    secret = tokens.parse(made.token).secret.encode()
    stored = await manager.store.list("")
    assert stored.items
    assert all(secret not in item.value for item in stored.items)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ttl_ns": -1}, "ttl: must be"),
        ({"max_uses": 10**9}, "uses: must be at most"),
        ({"label": "x" * 64}, "label: must be at most 63"),
        ({"label": "a\nb"}, "label: must be"),
        ({"role": 7}, "role: must be"),
    ],
)
async def test_what_no_token_can_be(local: Client, fields: dict[str, object], words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await create(local, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
