"""Joining a cluster with a token: the node's side.

The order makes each failure harmless. The token is parsed before anything is dialed; the root that the manager shows
must have the token's digest before the token is sent; the clocks are compared before a certificate is asked for; and
the manager creates the node only in its last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from miniproto.v1 import join_pb2, join_pb2_grpc, objects_pb2

from minicommon.clock import SECOND, Clock
from minicommon.errors import DeadlineError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from minicommon.identity import pem, tokens
from minicommon.identity.requests import KeyRequest, new_request
from minicommon.identity.tokens import Token
from minicommon.rpc import tls_probe
from minicommon.rpc.channel import join_channel
from minicommon.rpc.errors import ours

CLOCK_TOLERANCE_NS: Final = 300 * SECOND
"""How far the two clocks may be apart. Certificates would bear an hour; five minutes off is a clock that nobody sets,
and every time that the cluster shows would be wrong by as much."""

CALL_SECONDS: Final = 20.0
"""For each call: the manager writes to etcd before it answers the second one."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a new member has. `role` is the number of a `mini.v1.NodeRole`."""

    node_id: str
    role: int
    cluster_id: str
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    root_ca_pem: bytes
    managers: tuple[str, ...]
    """host:port of the control API of each manager."""


@dataclass(frozen=True, slots=True)
class _Application:
    """What is asked for, of whichever manager answers."""

    token: Token
    request: KeyRequest
    hostname: str
    availability: int
    roles: tuple[int, ...]
    clock: Clock


async def join(
    addresses: Sequence[str],
    token: str,
    *,
    hostname: str,
    clock: Clock,
    availability: int = objects_pb2.AVAILABILITY_ACTIVE,
    roles: tuple[int, ...] = (objects_pb2.NODE_ROLE_WORKER, objects_pb2.NODE_ROLE_MANAGER),
) -> Joined:
    """Ask the managers at `addresses` (host:port of their join ports), one after the other, until one answers.

    `availability` and `roles` are numbers of `mini.v1.Availability` and `NodeRole`. Raises InvalidArgumentError for a
    token that is none, UnavailableError when no address answers as a manager, FailedPreconditionError when the root
    or the clock does not fit, and whatever the manager refuses with.
    """
    if not addresses:
        raise InvalidArgumentError("addresses: at least one manager's HOST:PORT is needed")
    application = _Application(
        tokens.parse(token.strip()), new_request(), hostname, availability, roles, clock
    )
    problems: list[str] = []
    for address in addresses:
        try:
            return await _join_at(address, application)
        except UnavailableError as error:
            problems.append(error.message)
    raise UnavailableError("; ".join(problems))


async def _join_at(address: str, application: _Application) -> Joined:
    chain = await tls_probe.presented_chain(address)
    root = _root_of(address, chain, application.token)
    _check_validity(address, chain[0], application.clock.now_ns())
    async with join_channel(address, root) as channel:
        stub = join_pb2_grpc.JoinStub(channel)
        try:
            with ours():
                await _check_root(address, stub, application)
                answer = await _ask(stub, application)
        except (UnavailableError, DeadlineError) as error:
            raise UnavailableError(f"{address}: {error.message}") from error
    return Joined(
        node_id=answer.node_id,
        role=answer.role,
        cluster_id=answer.cluster_id,
        key_pem=application.request.key_pem,
        certificate_pem=answer.certificate_pem,
        root_ca_pem=answer.root_ca_pem,
        managers=tuple(answer.managers),
    )


async def _check_root(address: str, stub: join_pb2_grpc.JoinAsyncStub, application: _Application) -> None:
    answer = await stub.RootCertificate(join_pb2.RootCertificateRequest(), timeout=CALL_SECONDS)
    if not application.token.is_of(answer.root_ca_pem):
        raise _mismatch(address, application.token, answer.root_ca_pem)
    now_ns = application.clock.now_ns()
    if abs(now_ns - answer.now_ns) > CLOCK_TOLERANCE_NS:
        raise FailedPreconditionError(
            f"this machine's clock says {_text(now_ns)}, the manager's at {address} says {_text(answer.now_ns)}: "
            f"more than {CLOCK_TOLERANCE_NS // (60 * SECOND)} minutes apart; set the clocks (NTP) and join again"
        )


async def _ask(
    stub: join_pb2_grpc.JoinAsyncStub, application: _Application
) -> join_pb2.IssueCertificateResponse:
    request = join_pb2.IssueCertificateRequest(
        csr_pem=application.request.csr_pem,
        token=application.token.text,
        hostname=application.hostname,
        availability=objects_pb2.Availability.ValueType(application.availability),
        roles=[objects_pb2.NodeRole.ValueType(role) for role in application.roles],
    )
    return await stub.IssueCertificate(request, timeout=CALL_SECONDS)


def _root_of(address: str, chain: Sequence[x509.Certificate], token: Token) -> bytes:
    """The root, as PEM, among what the manager showed: the one, or the bundle, that has the token's digest."""
    singles = [pem.of_certificate(certificate) for certificate in chain]
    for candidate in (*reversed(singles), b"".join(singles[1:])):
        if token.is_of(candidate):
            return candidate
    raise _mismatch(address, token, singles[-1] if singles else b"")


def _mismatch(address: str, token: Token, found_pem: bytes) -> FailedPreconditionError:
    """Swarm's words, and what was found instead."""
    found = Token(tokens.digest_of(found_pem), "").digest_hex
    return FailedPreconditionError(
        f"remote CA does not match fingerprint. Expected: {token.digest_hex}, {address} has: {found}. "
        "The token is of another cluster, or somebody answers in the manager's place"
    )


def _check_validity(address: str, certificate: x509.Certificate, now_ns: int) -> None:
    """Before gRPC would refuse the certificate with less to say."""
    now = datetime.fromtimestamp(now_ns / SECOND, UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise FailedPreconditionError(
            f"this machine's clock says {_text(now_ns)}, but the certificate of the manager at {address} is valid "
            f"from {begin.isoformat()} to {end.isoformat()}; set the clocks (NTP) and join again"
        )


def _text(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // SECOND, UTC).isoformat()
