"""Certificates of people and programs: issued for a request, listed, revoked. Keys never come here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from grpc import aio
from minicommon.clock import SECOND
from minicommon.errors import InvalidArgumentError
from minicommon.identity.requests import requested_key
from miniproto.v1 import security_pb2, security_pb2_grpc

from minimanager.ca.issuer import SHORTEST_CLIENT_NS, Issuer, signing_key, trusted_roots
from minimanager.ca.sealer import ClusterSealer
from minimanager.codec import to_proto
from minimanager.domain.objects import ClientCertificate, ClientRole, Meta
from minimanager.domain.resolve import resolve
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster

Context = aio.ServicerContext[Any, Any]

DEFAULT_LIFETIME_NS: Final = 720 * 3600 * SECOND
"""30 days."""

LONGEST_LIFETIME_NS: Final = 10 * 365 * 24 * 3600 * SECOND

MAX_NAME: Final = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""

_PUNCTUATION: Final = frozenset("-_.@+")


class ClientCertificatesServicer(security_pb2_grpc.ClientCertificatesServicer):
    """`managers` gives host:port of the control API of every manager, this one first."""

    def __init__(self, core: Core, sealer: ClusterSealer, *, managers: Callable[[], Iterable[str]]) -> None:
        self._core = core
        self._issuer = Issuer(sealer)
        self._managers = managers

    async def Issue(
        self, request: security_pb2.IssueClientRequest, context: Context
    ) -> security_pb2.IssueClientResponse:
        check(request)
        role, lifetime_ns = _checked(request)
        requested_key(request.csr_pem)
        now_ns = self._core.clock.now_ns()
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> security_pb2.IssueClientResponse:
            cluster = require_cluster(snapshot)
            client = ClientCertificate(
                id=self._core.new_id(),
                meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns),
                name=request.name,
                role=role,
                issuer=signing_key(cluster),
            )
            issued = self._issuer.client_certificate(
                cluster, request.csr_pem, client, now_ns=now_ns, lifetime_ns=lifetime_ns
            )
            client = replace(client, expires_at_ns=issued.expires_at_ns)
            # The certificate is known to the cluster before anybody has it, or it could not be revoked.
            transaction = self._core.writer.begin().create(client).guard(cluster)
            revision = await self._core.commit(transaction)
            return security_pb2.IssueClientResponse(
                client=to_proto(client),
                certificate_pem=issued.chain_pem,
                root_ca_pem=trusted_roots(cluster),
                managers=list(dict.fromkeys(self._managers())),
                revision=revision,
            )

        return await self._core.retried(attempt)

    async def List(
        self, request: security_pb2.ListClientsRequest, context: Context
    ) -> security_pb2.ListClientsResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        found = sorted(snapshot.clients.values(), key=lambda each: (each.name, each.meta.created_at_ns))
        return security_pb2.ListClientsResponse(
            clients=[to_proto(client) for client in found],
            revision=snapshot.revision,
            now_ns=self._core.clock.now_ns(),
            issuer=signing_key(require_cluster(snapshot)),
        )

    async def Revoke(
        self, request: security_pb2.RevokeClientRequest, context: Context
    ) -> security_pb2.RevokeClientResponse:
        """Refused from now on, on open connections too, by every manager that has seen the change."""
        check(request)
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> security_pb2.RevokeClientResponse:
            now_ns = self._core.clock.now_ns()
            revoked = [
                replace(each, revoked_at_ns=now_ns, meta=replace(each.meta, updated_at_ns=now_ns))
                for each in find_clients(snapshot, request.ref)
            ]
            transaction = self._core.writer.begin()
            for each in revoked:
                transaction.replace(each)
            revision = await self._core.commit(transaction) if revoked else snapshot.revision
            return security_pb2.RevokeClientResponse(
                revoked=[to_proto(each) for each in revoked], revision=revision
            )

        return await self._core.retried(attempt)


def find_clients(snapshot: Snapshot, ref: str) -> list[ClientCertificate]:
    """What is not revoked yet: all certificates of a name, or the one of an id or the beginning of it."""
    valid = {key: each for key, each in snapshot.clients.items() if not each.revoked_at_ns}
    named = [each for each in valid.values() if each.name == ref]
    if named:
        return named
    if ref in snapshot.clients and ref not in valid:
        return []
    return [resolve("client certificate", ref, valid, name=lambda each: each.name)]


def _checked(request: security_pb2.IssueClientRequest) -> tuple[ClientRole, int]:
    name = request.name
    if not 1 <= len(name) <= MAX_NAME or not all(
        char.isascii() and (char.isalnum() or char in _PUNCTUATION) for char in name
    ):
        raise InvalidArgumentError(
            f"name: must be 1 to {MAX_NAME} characters of a-z, A-Z, 0-9, '-', '_', '.', '@' and '+', got {name!r}"
        )
    if int(request.role) not in tuple(ClientRole):
        raise InvalidArgumentError(f"role: must be 0 (viewer), 1 (operator) or 2 (admin), got {request.role}")
    lifetime_ns = request.lifetime_ns or DEFAULT_LIFETIME_NS
    if not SHORTEST_CLIENT_NS <= lifetime_ns <= LONGEST_LIFETIME_NS:
        raise InvalidArgumentError(f"expiry: must be 1m to 10 years, got {lifetime_ns // SECOND} s")
    return ClientRole(request.role), lifetime_ns
