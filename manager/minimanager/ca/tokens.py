"""Join tokens on the managers' side: show, rotate, and decide what a token makes of a node."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from minicommon.clock import SECOND
from minicommon.errors import UnauthenticatedError
from minicommon.identity import tokens

from minimanager.ca.sealer import ClusterSealer, token_of
from minimanager.domain.objects import Cluster, NodeRole

WRONG = "A valid join token is necessary to join this cluster"
"""SwarmKit's words (`ca/server.go`)."""


def rotated(cluster: Cluster, role: NodeRole, sealer: ClusterSealer, *, expires_at_ns: int = 0) -> Cluster:
    """The cluster with a new token for the role; the old one is void as soon as this is written."""
    token = sealer.join_token(role, cluster.root_ca_pem, expires_at_ns=expires_at_ns)
    if role is NodeRole.MANAGER:
        return replace(cluster, manager_token=token)
    return replace(cluster, worker_token=token)


def role_of(text: str, cluster: Cluster, sealer: ClusterSealer, *, now_ns: int) -> NodeRole:
    """The role that a token gives.

    Raises InvalidArgumentError for a malformed token, and UnauthenticatedError for one of another cluster, one that
    was rotated away or never was, and one that has expired.
    """
    token = tokens.parse(text)
    if not token.is_of(cluster.root_ca_pem):
        raise UnauthenticatedError(f"{WRONG}: this one was made for another root certificate")
    # Each token is compared, whatever came of the others: the time taken tells nothing.
    matches = [role for role in NodeRole if tokens.same(token.text, sealer.token_text(role, cluster))]
    if not matches:
        raise UnauthenticatedError(f"{WRONG}: this one is unknown; was it rotated?")
    role = matches[0]
    expires_at_ns = token_of(cluster, role).expires_at_ns
    if expires_at_ns and now_ns >= expires_at_ns:
        expired = datetime.fromtimestamp(expires_at_ns // SECOND, UTC).isoformat()
        raise UnauthenticatedError(f"{WRONG}: this one expired at {expired}; rotate it to get another")
    return role
