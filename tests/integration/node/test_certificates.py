"""Renewal against a manager's authority over mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from minicommon.clock import SECOND, SystemClock, VirtualClock
from minicommon.errors import UnavailableError
from minicommon.identity import pem
from minicommon.identity.authority import (
    HOUR,
    Authority,
    issue,
    issue_with_key,
    load_key,
    new_cluster_root,
    node_subject,
)
from minicommon.identity.requests import requested_key
from minicommon.paths import NodePaths
from minicommon.rpc.credentials import NodeCredentials, server_credentials
from minicommon.rpc.server import listen_tls
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import join_pb2, join_pb2_grpc
from miniworker.node.certificates import CertificateFiles, Renewal, renew_once

LIFETIME_NS = 10 * HOUR


class Manager(join_pb2_grpc.MembershipServicer):
    """Signs what it is asked to; `refusals` times it does not."""

    def __init__(self, root: Authority, clock: VirtualClock) -> None:
        self.root = root
        self.clock = clock
        self.refusals = 0
        self.renewed = asyncio.Event()
        self.moments: list[int] = []

    async def RenewCertificate(
        self, request: join_pb2.RenewCertificateRequest, context: Any
    ) -> join_pb2.RenewCertificateResponse:
        self.moments.append(self.clock.now_ns())
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no leader")
        certificate = issue(
            self.root,
            node_subject("worker-1", manager=False, cluster_id="c"),
            public_key=requested_key(request.csr_pem),
            now_ns=self.clock.now_ns(),
            lifetime_ns=LIFETIME_NS,
        )
        self.renewed.set()
        return join_pb2.RenewCertificateResponse(
            certificate_pem=certificate, root_ca_pem=self.root.certificate_pem
        )

    async def Leave(self, request: join_pb2.LeaveRequest, context: Any) -> join_pb2.LeaveResponse:
        return join_pb2.LeaveResponse()


class Bench:
    def __init__(self, directory: Path) -> None:
        # The servers' TLS looks at the machine's own clock, so the test begins there.
        self.clock = VirtualClock(SystemClock().now_ns())
        self.root = new_cluster_root(self.clock.now_ns())
        self.paths = NodePaths(directory)
        self.paths.swarm_dir.mkdir()
        pair = issue_with_key(
            self.root,
            node_subject("worker-1", manager=False, cluster_id="c"),
            now_ns=self.clock.now_ns(),
            lifetime_ns=LIFETIME_NS,
        )
        pem.write(self.paths.root_ca, self.root.certificate_pem)
        pem.write(self.paths.node_certificate, pair.certificate_pem)
        pem.write(self.paths.node_key, pair.key_pem)
        self.files = CertificateFiles(self.paths)
        self.manager = Manager(self.root, self.clock)
        self.server = grpc.aio.server()
        join_pb2_grpc.add_MembershipServicer_to_server(self.manager, self.server)
        shown = issue_with_key(
            self.root, node_subject("m", manager=True, cluster_id="c"), now_ns=self.clock.now_ns()
        )
        credentials = NodeCredentials(shown.key_pem, shown.certificate_pem, self.root.certificate_pem)
        port = listen_tls(
            self.server, "127.0.0.1:0", server_credentials(lambda: credentials, client_certificate=True)
        )
        self.address = f"127.0.0.1:{port}"

    def renewal(self) -> Renewal:
        return Renewal(self.files, managers=lambda: (self.address,), clock=self.clock, random=Random(7))

    def fits(self) -> bool:
        """Whether the certificate on disk is for the key on disk."""
        certificate = pem.read_certificate(self.paths.node_certificate.read_bytes())
        return certificate.public_key() == load_key(self.paths.node_key.read_bytes()).public_key()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.server.start()
    yield bench
    await bench.server.stop(None)


async def test_a_renewed_certificate_has_a_new_key_and_works(bench: Bench) -> None:
    old_key = bench.paths.node_key.read_bytes()
    await renew_once(bench.files, bench.address)
    assert bench.paths.node_key.read_bytes() != old_key
    assert bench.fits()
    await renew_once(bench.files, bench.address)
    assert bench.paths.node_key.stat().st_mode & 0o777 == 0o600


async def test_a_crash_while_replacing_is_completed_by_the_next_start(bench: Bench) -> None:
    pair = issue_with_key(
        bench.root, node_subject("worker-1", manager=False, cluster_id="c"), now_ns=bench.clock.now_ns()
    )
    pem.write(bench.paths.node_certificate.with_suffix(".next"), pair.certificate_pem + pair.key_pem)
    pem.write(bench.paths.node_key, pair.key_pem)
    assert not bench.fits()
    CertificateFiles(bench.paths)
    assert bench.fits()
    assert bench.paths.node_certificate.read_bytes() == pair.certificate_pem


async def test_renewal_comes_between_half_and_four_fifths_of_the_life(bench: Bench) -> None:
    began_ns = bench.clock.now_ns()
    bench.manager.refusals = 2
    renewing = asyncio.create_task(bench.renewal().run())
    await asyncio.sleep(0)
    bench.clock.advance(LIFETIME_NS // 2 - 2 * SECOND)
    await asyncio.sleep(0)
    assert bench.manager.moments == []
    while not bench.manager.renewed.is_set():
        if bench.clock.now_ns() < began_ns + LIFETIME_NS * 8 // 10 + 10 * SECOND:
            bench.clock.advance(SECOND)
        await asyncio.sleep(0)
    first = (bench.manager.moments[0] - began_ns) / LIFETIME_NS
    assert 0.49 < first < 0.81
    assert len(bench.manager.moments) == 3
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)


async def test_a_manager_that_is_gone_is_told(bench: Bench) -> None:
    await bench.server.stop(None)
    with pytest.raises(UnavailableError):
        await renew_once(bench.files, bench.address)


async def test_another_root_is_followed_at_once(bench: Bench) -> None:
    renewal, told = bench.renewal(), asyncio.Event()
    renewal.changed = told.set
    renewing = asyncio.create_task(renewal.run())
    wanted = bench.files.identity().issuer
    roots = bench.root.certificate_pem + new_cluster_root(bench.clock.now_ns()).certificate_pem
    renewal.trust(dispatch.Trust(roots_pem=roots, issuer=wanted))
    await asyncio.wait_for(told.wait(), 10)
    assert bench.files.trusted_roots() == roots
    assert bench.manager.moments == []  # the certificate is of the wanted root: it stays
    told.clear()
    renewal.trust(dispatch.Trust(roots_pem=roots, issuer="another"))
    await asyncio.wait_for(told.wait(), 10)
    assert len(bench.manager.moments) == 1
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)


async def test_a_node_whose_certificate_has_expired_is_told_what_to_do(bench: Bench) -> None:
    await bench.server.stop(None)
    bench.clock.advance(LIFETIME_NS + SECOND)
    asked = asyncio.Event()

    def managers() -> tuple[str, ...]:
        if renewal.problem:
            asked.set()
        return (bench.address,)

    renewal = Renewal(bench.files, managers=managers, clock=bench.clock, random=Random(7))
    renewing = asyncio.create_task(renewal.run())
    while not asked.is_set():
        bench.clock.advance(SECOND)
        await asyncio.sleep(0.001)
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
    assert "certificate expired at" in renewal.problem
    assert "minictl swarm leave --force" in renewal.problem
    assert "minictl swarm join" in renewal.problem
