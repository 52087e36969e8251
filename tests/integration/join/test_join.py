"""Joining over real TLS: what a new member gets, and each way to fail, with its own message and nothing left behind."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from minicommon.clock import SECOND, SystemClock, VirtualClock
from minicommon.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    MiniError,
    UnauthenticatedError,
    UnavailableError,
)
from minicommon.identity import tokens
from minicommon.identity.authority import HOUR, issue_with_key, new_cluster_root, node_subject
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.rpc.channel import join_channel
from minicommon.rpc.credentials import NodeCredentials
from minicommon.rpc.errors import ours
from minicommon.rpc.join_client import Joined, join
from minimanager.domain.objects import Availability, ClusterSpec, NodeRole
from miniproto.v1 import join_pb2, join_pb2_grpc, objects_pb2
from support.join_site import CONTROL, JoinSite
from support.ports import free_port

CLOCK = SystemClock()


async def _join(site: JoinSite, token: str | None = None, address: str | None = None) -> Joined:
    return await join(
        [address or site.join_address],
        site.token() if token is None else token,
        hostname="n2",
        clock=CLOCK,
    )


async def _refused(site: JoinSite, attempt: Awaitable[Joined], error: type[MiniError], *words: str) -> str:
    """The message of the refusal, which has left no node and no address behind."""
    before = await site.core.store.list(site.core.keys.prefix)
    with pytest.raises(error) as caught:
        await attempt
    after = await site.core.store.list(site.core.keys.prefix)
    assert after.items == before.items
    for word in words:
        assert word in caught.value.message
    return caught.value.message


# --- it works ---


async def test_a_worker_token_makes_a_worker(site: JoinSite) -> None:
    joined = await _join(site)
    assert joined.role == objects_pb2.NODE_ROLE_WORKER
    assert joined.cluster_id == site.cluster.id
    assert joined.root_ca_pem == site.root.certificate_pem
    assert joined.managers == (CONTROL,)
    identity = identity_of(joined.certificate_pem)
    assert (identity.caller, identity.name) == (Caller.WORKER, joined.node_id)
    assert identity.cluster_id == site.cluster.id
    node = site.core.cache.snapshot().nodes[joined.node_id]
    assert node.spec.role is NodeRole.WORKER
    assert node.spec.name == ""


async def test_a_manager_token_makes_a_manager(site: JoinSite) -> None:
    joined = await _join(site, site.token(NodeRole.MANAGER))
    assert joined.role == objects_pb2.NODE_ROLE_MANAGER
    assert identity_of(joined.certificate_pem).caller is Caller.MANAGER
    assert site.core.cache.snapshot().nodes[joined.node_id].spec.role is NodeRole.MANAGER


async def test_spaces_around_a_token_do_no_harm(site: JoinSite) -> None:
    assert (await _join(site, f" {site.token()}\n")).node_id


async def test_the_availability_asked_for_is_the_nodes(site: JoinSite) -> None:
    joined = await join(
        [site.join_address],
        site.token(),
        hostname="n2",
        clock=CLOCK,
        availability=objects_pb2.AVAILABILITY_DRAIN,
    )
    node = site.core.cache.snapshot().nodes[joined.node_id]
    assert node.spec.availability is Availability.DRAIN


async def test_the_certificate_has_the_clusters_lifetime(site: JoinSite) -> None:
    await site.change(replace(site.cluster, spec=ClusterSpec(certificate_lifetime_ns=3 * HOUR)))
    identity = identity_of((await _join(site)).certificate_pem)
    assert identity.not_after_ns - identity.not_before_ns == 4 * HOUR


async def test_nodes_that_join_at_once_get_different_addresses(site: JoinSite) -> None:
    joined = await asyncio.gather(*(_join(site) for _ in range(20)))
    nodes = site.core.cache.snapshot().nodes
    addresses = [nodes[each.node_id].ingress_address for each in joined]
    assert len(set(addresses)) == 20
    assert "10.0.0.1" not in addresses
    ingress = site.core.cache.snapshot().ingress
    assert ingress is not None
    for each in joined:
        key = site.core.keys.address(ingress.id, nodes[each.node_id].ingress_address)
        claim = await site.core.store.get(key)
        assert claim is not None
        assert claim.value.decode() == each.node_id


async def test_two_managers_do_not_give_out_one_address_twice(site: JoinSite) -> None:
    doors = [site.join_address, site.other_join_address] * 8
    joined = await asyncio.gather(*(_join(site, address=address) for address in doors))
    nodes = (await site.core.settle()).nodes
    assert len({nodes[each.node_id].ingress_address for each in joined}) == 16


async def test_addresses_are_tried_in_order(site: JoinSite) -> None:
    joined = await join(
        [f"127.0.0.1:{free_port()}", site.join_address], site.token(), hostname="n2", clock=CLOCK
    )
    assert joined.node_id in site.core.cache.snapshot().nodes


# --- the token ---


async def test_a_malformed_token_is_refused_before_anything_is_dialed(site: JoinSite) -> None:
    attempt = join(["192.0.2.1:2377"], "SWMTKN-1-abc-def", hostname="n2", clock=CLOCK)
    await _refused(
        site, attempt, InvalidArgumentError, "invalid join token", "digest must have 50 characters"
    )


async def test_a_root_that_does_not_match_is_refused_before_the_token_is_sent(site: JoinSite) -> None:
    other = tokens.new_token(new_cluster_root(CLOCK.now_ns()).certificate_pem)
    message = await _refused(
        site,
        _join(site, other.text),
        FailedPreconditionError,
        f"remote CA does not match fingerprint. Expected: {other.digest_hex}",
        site.join_address,
    )
    assert tokens.parse(site.token()).digest_hex in message
    assert other.secret not in message


async def test_an_unknown_token_is_refused(site: JoinSite) -> None:
    token = tokens.new_token(site.root.certificate_pem).text
    await _refused(
        site,
        _join(site, token),
        UnauthenticatedError,
        "A valid join token is necessary to join this cluster",
        "rotated",
    )


async def test_a_rotated_token_is_void_at_once_and_the_other_roles_is_not(site: JoinSite) -> None:
    worker, manager = site.token(), site.token(NodeRole.MANAGER)
    await site.rotate(NodeRole.WORKER)
    await _refused(
        site,
        _join(site, worker),
        UnauthenticatedError,
        "A valid join token is necessary to join this cluster",
    )
    assert (await _join(site)).node_id
    assert (await _join(site, manager)).role == objects_pb2.NODE_ROLE_MANAGER


async def test_an_expired_token_is_refused_and_says_when(site: JoinSite) -> None:
    await site.rotate(expires_at_ns=1_700_000_000 * SECOND)
    await _refused(site, _join(site), UnauthenticatedError, "expired at 2023-11-14T22:13:20+00:00")


async def test_a_token_that_expires_later_works(site: JoinSite) -> None:
    await site.rotate(expires_at_ns=CLOCK.now_ns() + HOUR)
    assert (await _join(site)).node_id


async def test_a_token_of_a_role_the_node_cannot_take_changes_nothing(site: JoinSite) -> None:
    attempt = join(
        [site.join_address],
        site.token(NodeRole.MANAGER),
        hostname="n2",
        clock=CLOCK,
        roles=(objects_pb2.NODE_ROLE_WORKER,),
    )
    await _refused(site, attempt, FailedPreconditionError, "the token is for a manager", "as a worker only")


# --- the address ---


async def test_an_address_where_nothing_listens_is_named(site: JoinSite) -> None:
    address = f"127.0.0.1:{free_port()}"
    await _refused(site, _join(site, address=address), UnavailableError, f"{address}: connection refused")


@pytest.mark.parametrize(
    "address", ["manager", ":2377", "manager:", "manager:0", "manager:65536", "manager:²"]
)
async def test_an_address_of_another_form_is_refused(site: JoinSite, address: str) -> None:
    attempt = join([address], site.token(), hostname="n2", clock=CLOCK)
    await _refused(site, attempt, InvalidArgumentError, "address: must be HOST:PORT", repr(address))


async def test_no_address_is_refused(site: JoinSite) -> None:
    attempt = join([], site.token(), hostname="n2", clock=CLOCK)
    await _refused(site, attempt, InvalidArgumentError, "at least one manager's HOST:PORT")


async def test_every_address_that_failed_is_named(site: JoinSite) -> None:
    addresses = [f"127.0.0.1:{free_port()}", "no-such-host.invalid:2377"]
    attempt = join(addresses, site.token(), hostname="n2", clock=CLOCK)
    await _refused(site, attempt, UnavailableError, *addresses, "the name cannot be resolved")


async def test_an_address_without_a_route_is_explained(site: JoinSite) -> None:
    address = "255.255.255.255:2377"  # a broadcast address takes no connection, on any machine
    await _refused(site, _join(site, address=address), UnavailableError, f"{address}: cannot connect: ")


async def test_an_address_that_accepts_and_is_silent_is_named(site: JoinSite) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        await _refused(
            site, _join(site, address=address), UnavailableError, address, "does not answer as a manager does"
        )


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def _speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("connected", [_hang_up, _speak_http])
async def test_what_does_not_speak_tls_is_no_manager(site: JoinSite, connected: Connected) -> None:
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await _refused(
            site,
            _join(site, address=address),
            UnavailableError,
            address,
            "does not speak TLS as a manager does",
        )


async def test_a_worker_that_answers_in_a_managers_place_is_not_believed(site: JoinSite) -> None:
    """It holds the right root and a certificate that the root has signed, but not a manager's."""
    subject = node_subject("w1", manager=False, cluster_id=site.cluster.id)
    pair = issue_with_key(site.root, subject, now_ns=CLOCK.now_ns())
    site.credentials = NodeCredentials(pair.key_pem, pair.certificate_pem, site.root.certificate_pem)
    await _refused(site, _join(site), UnavailableError, site.join_address)


async def test_an_impostor_that_shows_the_root_without_its_signature_is_not_believed(site: JoinSite) -> None:
    mine = new_cluster_root(CLOCK.now_ns())
    subject = node_subject("m1", manager=True, cluster_id=site.cluster.id)
    pair = issue_with_key(mine, subject, now_ns=CLOCK.now_ns())
    site.credentials = NodeCredentials(pair.key_pem, pair.certificate_pem, site.root.certificate_pem)
    await _refused(site, _join(site), UnavailableError, site.join_address)


# --- the clock ---


@pytest.mark.parametrize("off_seconds", [-1000, 1000])
async def test_a_clock_that_is_off_is_refused_with_both_times(site: JoinSite, off_seconds: int) -> None:
    clock = VirtualClock(time.time_ns() + off_seconds * SECOND)
    attempt = join([site.join_address], site.token(), hostname="n2", clock=clock)
    message = await _refused(site, attempt, FailedPreconditionError, "more than 5 minutes apart")
    assert len(re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", message)) == 2


async def test_a_clock_before_the_certificates_is_refused_with_the_times(site: JoinSite) -> None:
    attempt = join([site.join_address], site.token(), hostname="n2", clock=VirtualClock())
    await _refused(
        site,
        attempt,
        FailedPreconditionError,
        "this machine's clock says 2023-11-14T22:13:20+00:00",
        "is valid from",
    )


async def test_a_clock_that_is_off_by_a_minute_joins(site: JoinSite) -> None:
    clock = VirtualClock(time.time_ns() - 60 * SECOND)
    assert (await join([site.join_address], site.token(), hostname="n2", clock=clock)).node_id


# --- requests that no client of ours sends ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"csr_pem": b"junk"}, "csr_pem: must be PEM"),
        ({"availability": 7}, "availability: must be one of active, pause, drain, got 7"),
        ({"hostname": "x" * 300}, "hostname: must be at most 253"),
        ({"hostname": "a\nb"}, "hostname: must be at most 253 printable"),
        ({"token": ""}, "invalid join token"),
    ],
)
async def test_a_bad_request_creates_nothing(site: JoinSite, change: dict[str, object], words: str) -> None:
    good: dict[str, object] = {"csr_pem": new_request().csr_pem, "token": site.token(), "hostname": "n2"}
    request = join_pb2.IssueCertificateRequest(**{**good, **change})  # type: ignore[arg-type]
    async with join_channel(site.join_address, site.root.certificate_pem) as channel:
        with pytest.raises(InvalidArgumentError, match=words), ours():
            await join_pb2_grpc.JoinStub(channel).IssueCertificate(request)
    assert not site.core.cache.snapshot().nodes


OLD_AND_NEW = [
    (ssl.TLSVersion.TLSv1_1, False),
    (ssl.TLSVersion.TLSv1_2, True),
    (ssl.TLSVersion.TLSv1_3, True),
]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("version", "welcome"), OLD_AND_NEW)
async def test_tls_before_1_2_is_refused_on_both_ports(
    site: JoinSite, tmp_path: Path, version: ssl.TLSVersion, welcome: bool
) -> None:
    both = tmp_path / "node.pem"
    both.write_bytes(site.credentials.certificate_pem + site.credentials.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL itself would not offer the old versions
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(both)
    for address in (site.join_address, site.control_address):
        host, port = address.split(":")
        handshake = asyncio.open_connection(host, int(port), ssl=context)
        if welcome:
            _, writer = await handshake
            writer.transport.abort()
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await handshake
