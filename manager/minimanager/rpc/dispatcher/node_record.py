"""The node's own status in the store: written by the manager that holds the node's session, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from minicommon.clock import SECOND
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2

from minimanager.domain.objects import Meta, NodeDescription, NodeState, NodeStatus
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core

Change = Callable[[NodeStatus | None], NodeStatus | None]
"""From the present status to the wanted one; None: leave it as it is."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a node says of itself when it opens a session."""

    description: NodeDescription
    address: str
    """Where other nodes send overlay traffic."""
    manager_address: str = ""
    encryption_key: str = ""
    """Its WireGuard public key, in base64; empty: it has none."""
    next_encryption_key: str = ""
    certificate_issuer: str = ""
    trusted_roots: str = ""


STEADY_NS = 300 * SECOND
"""A node that was READY for this long before it is lost has not been flapping."""

LONGEST_IDENTIFIER = 64
"""Hex digits of a SHA-256, the longest that a node tells of its certificate."""


def identifier(text: str) -> str:
    """`text`, if it is an identifier in hex or empty. Raises InvalidArgumentError: a node may send anything."""
    if len(text) > LONGEST_IDENTIFIER or not all(char in "0123456789abcdef" for char in text):
        raise InvalidArgumentError(f"certificate: must have at most {LONGEST_IDENTIFIER} hex digits")
    return text


class NodeRecords:
    """Writes node statuses; a change that loses against another writer is decided anew."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def mine(self, status: NodeStatus) -> bool:
        """Whether this manager was the last to hold the node's session."""
        return status.session_manager == self._core.node_id

    async def ready(self, node_id: str, arrival: Arrival, *, reservation: str = "") -> None:
        """The node is connected to this manager. `reservation`: why it is not READY yet; `admit` follows."""

        def change(status: NodeStatus | None) -> NodeStatus | None:
            wanted = NodeStatus(
                id=node_id,
                state=NodeState.DOWN if reservation else NodeState.READY,
                message=reservation,
                description=arrival.description,
                address=arrival.address,
                session_manager=self._core.node_id,
                manager_address=arrival.manager_address,
                encryption_key=arrival.encryption_key,
                next_encryption_key=arrival.next_encryption_key,
                certificate_issuer=arrival.certificate_issuer,
                trusted_roots=arrival.trusted_roots,
                losses=status.losses if status else 0,
            )
            return self._entered(status, wanted)

        await self._write(node_id, change)

    async def admit(self, node_id: str) -> None:
        """The connected node has held its session for long enough."""

        def change(status: NodeStatus | None) -> NodeStatus | None:
            if status is None or not self.mine(status):
                return None
            return self._entered(status, replace(status, state=NodeState.READY, message=""))

        await self._write(node_id, change)

    async def describe(self, node_id: str, description: NodeDescription) -> None:
        """The connected node changed: more memory, another runtime."""

        def change(status: NodeStatus | None) -> NodeStatus | None:
            return None if status is None else self._entered(status, replace(status, description=description))

        await self._write(node_id, change)

    async def certify(self, node_id: str, certificate: dispatcher_pb2.NodeCertificate) -> None:
        """The connected node uses another certificate, or trusts other roots."""

        def change(status: NodeStatus | None) -> NodeStatus | None:
            if status is None:
                return None
            wanted = replace(
                status,
                certificate_issuer=identifier(certificate.issuer),
                trusted_roots=identifier(certificate.trusted_roots),
            )
            return self._entered(status, wanted)

        await self._write(node_id, change)

    async def keys(self, node_id: str, current: str, following: str) -> None:
        """The connected node has other WireGuard keys: from now on, and for the next time."""

        def change(status: NodeStatus | None) -> NodeStatus | None:
            if status is None:
                return None
            wanted = replace(status, encryption_key=current, next_encryption_key=following)
            return self._entered(status, wanted)

        await self._write(node_id, change)

    async def down(self, node_id: str, message: str, *, still: Callable[[], bool]) -> bool:
        """The node is gone, unless it has come back meanwhile: here (`still` says no) or to another manager.

        Whether that was news.
        """

        def change(status: NodeStatus | None) -> NodeStatus | None:
            if status is None or not self.mine(status) or not still():
                return None
            wanted = replace(status, state=NodeState.DOWN, message=message)
            if status.state is NodeState.READY:
                steady = self._core.clock.now_ns() - status.since_ns >= STEADY_NS
                wanted = replace(wanted, losses=1 if steady else status.losses + 1)
            return self._entered(status, wanted)

        return await self._write(node_id, change)

    def _entered(self, status: NodeStatus | None, wanted: NodeStatus) -> NodeStatus | None:
        """`wanted` with its times; None when it says nothing new."""
        if status is None:
            now_ns = self._core.clock.now_ns()
            return replace(wanted, since_ns=now_ns, meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns))
        since_ns = status.since_ns if status.state is wanted.state else self._core.clock.now_ns()
        wanted = replace(wanted, since_ns=since_ns, meta=status.meta)
        if wanted == status:
            return None
        return replace(wanted, meta=replace(status.meta, updated_at_ns=self._core.clock.now_ns()))

    async def _write(self, node_id: str, change: Change) -> bool:
        async def attempt(snapshot: Snapshot) -> bool:
            current = snapshot.node_statuses.get(node_id)
            wanted = change(current)
            if wanted is None or (current is None and node_id not in snapshot.nodes):
                return False
            transaction = self._core.writer.begin()
            transaction.save(wanted)
            if current is None:
                transaction.guard(snapshot.nodes[node_id])
            await self._core.commit(transaction)
            return True

        return await self._core.retried(attempt)
