"""Join tokens on the managers' side: show, rotate, and decide what a token makes of a node."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from minicommon.clock import SECOND
from minicommon.errors import UnauthenticatedError
from minicommon.identity import tokens
from minicommon.identity.tokens import Token

from minimanager.ca.sealer import ClusterSealer, token_of
from minimanager.domain.objects import Cluster, IssuedToken, NodeRole

WRONG = "A valid join token is necessary to join this cluster"
"""SwarmKit's words (`ca/server.go`)."""

_OTHER_ROOT: Final = f"{WRONG}: this one was made for another root certificate"


def rotated(cluster: Cluster, role: NodeRole, sealer: ClusterSealer, *, expires_at_ns: int = 0) -> Cluster:
    """The cluster with a new token for the role; the old one is void as soon as this is written."""
    token = sealer.join_token(role, cluster.root_ca_pem, expires_at_ns=expires_at_ns)
    if role is NodeRole.MANAGER:
        return replace(cluster, manager_token=token)
    return replace(cluster, worker_token=token)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a token gives; `issued` is the token of limited use that it was, whose uses have to be counted."""

    role: NodeRole
    issued: IssuedToken | None = None


def secret_hash(token: Token) -> str:
    """What is kept of a token of limited use: its secret has 128 random bits, which no hash gives away."""
    return hashlib.sha256(token.secret.encode()).hexdigest()


def admission(
    text: str, cluster: Cluster, sealer: ClusterSealer, issued: Iterable[IssuedToken], *, now_ns: int
) -> Admission:
    """What a token gives: one of the cluster's own two, or one of those of limited use.

    Raises what `role_of` does, and UnauthenticatedError for one that is used up or was revoked.
    """
    token = tokens.parse(text)
    wanted = secret_hash(token)
    found = [each for each in issued if hmac.compare_digest(each.secret_sha256, wanted)]
    if not found:
        return Admission(role_of(text, cluster, sealer, now_ns=now_ns))
    if not token.is_of(cluster.root_ca_pem):
        raise UnauthenticatedError(_OTHER_ROOT)
    ensure_usable(found[0], now_ns=now_ns)
    return Admission(found[0].role, found[0])


def ensure_usable(token: IssuedToken, *, now_ns: int) -> None:
    """Raises UnauthenticatedError for a token of limited use whose limit is reached."""
    if token.revoked_at_ns:
        raise UnauthenticatedError(f"{WRONG}: this one was revoked at {_moment(token.revoked_at_ns)}")
    if token.expires_at_ns and now_ns >= token.expires_at_ns:
        raise UnauthenticatedError(f"{WRONG}: this one expired at {_moment(token.expires_at_ns)}")
    if token.max_uses and token.uses >= token.max_uses:
        times = "its one use is" if token.max_uses == 1 else f"its {token.max_uses} uses are"
        raise UnauthenticatedError(f"{WRONG}: {times} used up")


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // SECOND, UTC).isoformat()


def role_of(text: str, cluster: Cluster, sealer: ClusterSealer, *, now_ns: int) -> NodeRole:
    """The role that one of the cluster's own tokens gives.

    Raises InvalidArgumentError for a malformed token, and UnauthenticatedError for one of another cluster, one that
    was rotated away or never was, and one that has expired.
    """
    token = tokens.parse(text)
    if not token.is_of(cluster.root_ca_pem):
        raise UnauthenticatedError(_OTHER_ROOT)
    # Each token is compared, whatever came of the others: the time taken tells nothing.
    matches = [role for role in NodeRole if tokens.same(token.text, sealer.token_text(role, cluster))]
    if not matches:
        raise UnauthenticatedError(f"{WRONG}: this one is unknown; was it rotated?")
    role = matches[0]
    expires_at_ns = token_of(cluster, role).expires_at_ns
    if expires_at_ns and now_ns >= expires_at_ns:
        expired = _moment(expires_at_ns)
        raise UnauthenticatedError(f"{WRONG}: this one expired at {expired}; rotate it to get another")
    return role
