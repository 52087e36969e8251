"""Join tokens of limited use: made for a while, for so many nodes, and with a label that says for what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from grpc import aio
from minicommon.clock import SECOND
from minicommon.errors import InvalidArgumentError
from minicommon.identity import tokens
from minicommon.settings import ManagerSettings
from miniproto.v1 import control_pb2, security_pb2, security_pb2_grpc

from minimanager.ca.tokens import secret_hash
from minimanager.codec import to_proto
from minimanager.domain.objects import IssuedToken, Meta, NodeRole
from minimanager.domain.resolve import resolve
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster

Context = aio.ServicerContext[Any, Any]

MAX_LABEL: Final = 63
"""Characters, as of a service's name."""

SHORTEST_TTL_NS: Final = SECOND
LONGEST_TTL_NS: Final = 10 * 365 * 24 * 3600 * SECOND
MAX_USES: Final = 1_000_000


class JoinTokensServicer(security_pb2_grpc.JoinTokensServicer):
    def __init__(self, core: Core, settings: ManagerSettings) -> None:
        self._core = core
        self._settings = settings

    async def Create(
        self, request: security_pb2.CreateTokenRequest, context: Context
    ) -> security_pb2.CreateTokenResponse:
        """The only answer that ever has the token: the cluster keeps a hash of it."""
        check(request)
        role = _checked(request)
        cluster = require_cluster(self._core.cache.snapshot())
        token, now_ns = tokens.new_token(cluster.root_ca_pem), self._core.clock.now_ns()
        issued = IssuedToken(
            id=self._core.new_id(),
            meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns),
            role=role,
            label=request.label,
            secret_sha256=secret_hash(token),
            root_digest=token.digest,
            expires_at_ns=now_ns + request.ttl_ns if request.ttl_ns else 0,
            max_uses=request.max_uses,
        )
        revision = await self._core.commit(self._core.writer.begin().create(issued))
        return security_pb2.CreateTokenResponse(
            token=token.text,
            issued=_shown(issued),
            address=f"{self._settings.advertise_host}:{self._settings.join_port}",
            revision=revision,
        )

    async def List(
        self, request: security_pb2.ListTokensRequest, context: Context
    ) -> security_pb2.ListTokensResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        found = sorted(snapshot.tokens.values(), key=lambda token: (token.meta.created_at_ns, token.id))
        return security_pb2.ListTokensResponse(
            tokens=[_shown(token) for token in found],
            revision=snapshot.revision,
            now_ns=self._core.clock.now_ns(),
            root_digest=tokens.digest_of(require_cluster(snapshot).root_ca_pem),
        )

    async def Revoke(self, request: security_pb2.RevokeTokenRequest, context: Context) -> control_pb2.Changed:
        """Void for new nodes from now on; nodes that joined with it stay."""
        check(request)
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            token = find_token(snapshot, request.ref)
            if token.revoked_at_ns:
                return control_pb2.Changed(revision=snapshot.revision)
            now_ns = self._core.clock.now_ns()
            meta = replace(token.meta, updated_at_ns=now_ns)
            revoked = replace(token, revoked_at_ns=now_ns, meta=meta)
            revision = await self._core.commit(self._core.writer.begin().replace(revoked))
            return control_pb2.Changed(revision=revision)

        return await self._core.retried(attempt)


def find_token(snapshot: Snapshot, ref: str) -> IssuedToken:
    """A token by id, label or beginning of its id; a label means tokens that are not revoked."""
    exact = snapshot.tokens.get(ref)
    if exact is not None:
        return exact
    present = {key: token for key, token in snapshot.tokens.items() if not token.revoked_at_ns}
    return resolve("join token", ref, present, name=lambda token: token.label)


def _checked(request: security_pb2.CreateTokenRequest) -> NodeRole:
    if int(request.role) not in tuple(NodeRole):
        raise InvalidArgumentError(f"role: must be 0 (worker) or 1 (manager), got {request.role}")
    if len(request.label) > MAX_LABEL or not request.label.isprintable():
        raise InvalidArgumentError(
            f"label: must be at most {MAX_LABEL} printable characters, got {len(request.label)}"
        )
    if request.ttl_ns and not SHORTEST_TTL_NS <= request.ttl_ns <= LONGEST_TTL_NS:
        raise InvalidArgumentError(f"ttl: must be 1s to 10 years, or 0 for ever, got {request.ttl_ns} ns")
    if request.max_uses > MAX_USES:
        raise InvalidArgumentError(f"uses: must be at most {MAX_USES}, got {request.max_uses}")
    return NodeRole(request.role)


def _shown(token: IssuedToken) -> Any:
    """Without the hash: nobody needs it."""
    return to_proto(replace(token, secret_sha256=""))
