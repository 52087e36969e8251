"""Gates: how the callers of a server are identified, and what refuses them before their method is looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from grpc.aio import ServicerContext

from minicommon.clock import Clock
from minicommon.errors import PermissionDeniedError, UnauthenticatedError
from minicommon.identity import peer
from minicommon.identity.peer import Identity
from minicommon.rpc import access

Context = ServicerContext[Any, Any]


class Gate(Protocol):
    """Says who calls. Raises UnauthenticatedError or PermissionDeniedError for whom it does not let in."""

    def identify(self, context: Context) -> Identity:
        """The caller of an RPC."""


class LocalGate:
    """For servers that listen only on a unix socket of root's."""

    def identify(self, context: Context) -> Identity:
        if not is_local(context):
            raise UnauthenticatedError("this server takes calls only over its unix socket")
        return peer.LOCAL


class AnyoneGate:
    """For the join port: nobody has a certificate there yet."""

    def identify(self, context: Context) -> Identity:
        return peer.ANYONE


class MemberGate:
    """For managers: certificates of this cluster, and root over the unix socket.

    `removed` gives the ids of nodes, `revoked` those of client certificates, that are refused until they expire.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        removed: Callable[[], Collection[str]],
        clock: Clock,
        revoked: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._cluster_id = cluster_id
        self._removed = removed
        self._revoked = revoked
        self._clock = clock

    def identify(self, context: Context) -> Identity:
        if is_local(context):
            return peer.LOCAL
        identity = certificate_identity(context)
        if identity.cluster_id != self._cluster_id:
            raise PermissionDeniedError(
                f"certificate: belongs to cluster {identity.cluster_id}, this is cluster {self._cluster_id}"
            )
        if identity.node_id and identity.node_id in self._removed():
            raise PermissionDeniedError(f"node {identity.node_id} was removed from the cluster")
        if identity.client_id and identity.client_id in self._revoked():
            raise PermissionDeniedError(f"certificate {identity.client_id} of {identity} was revoked")
        if self._clock.now_ns() > identity.not_after_ns:
            # TLS looks at this only when a connection begins, and connections may last for months.
            raise UnauthenticatedError("certificate: has expired since the connection was made")
        return identity


def is_local(context: Context) -> bool:
    """Whether the call came over a unix socket."""
    return context.peer().startswith("unix:")


def certificate_identity(context: Context) -> Identity:
    """What the caller's verified certificate says. Raises UnauthenticatedError when there is none."""
    shown = tuple(context.auth_context().get("x509_pem_cert", ()))
    if not shown:
        raise UnauthenticatedError(
            "no certificate: this port needs mutual TLS with a certificate of the cluster"
        )
    return peer.identity_of(shown[0])


def identity(context: Context) -> Identity:
    """The caller of an RPC that has passed its gate: for servicers that need to know."""
    return peer.LOCAL if is_local(context) else certificate_identity(context)


def check_access(method: str, caller: Identity) -> None:
    """Raise PermissionDeniedError unless the method's `access` option names this kind of caller."""
    allowed = access.allowed(method)
    if caller.caller in allowed:
        return
    names = ", ".join(sorted(kind.name.lower() for kind in allowed)) or "nobody"
    raise PermissionDeniedError(f"{method}: allowed for {names}; the caller is {caller}")
