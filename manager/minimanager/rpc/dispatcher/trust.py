"""What a node should trust, and whose certificate it should have: told at the start of a session and on each change."""

from __future__ import annotations

import asyncio

from minicommon.identity.authority import key_identifier
from miniproto.v1 import dispatcher_pb2

from minimanager.ca.issuer import signing_root, trusted_roots
from minimanager.domain.objects import Cluster
from minimanager.domain.snapshot import Snapshot


class Roots:
    """The cluster's roots as of the cache, and an event that each change of them replaces."""

    def __init__(self) -> None:
        self._pem = b""
        self._message = dispatcher_pb2.ManagerMessage()
        self._changed = asyncio.Event()

    def follow(self, snapshot: Snapshot) -> None:
        """Take what the cluster says now."""
        cluster = snapshot.cluster
        if cluster is None or (found := trusted_roots(cluster)) == self._pem:
            return
        self._pem, self._message = found, _message(cluster)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def message(self) -> dispatcher_pb2.ManagerMessage:
        """What a node is told."""
        return self._message

    async def wait_change(self) -> None:
        """Return when the roots are others than now."""
        await self._changed.wait()


def _message(cluster: Cluster) -> dispatcher_pb2.ManagerMessage:
    issuer = key_identifier(signing_root(cluster))
    return dispatcher_pb2.ManagerMessage(
        trust=dispatcher_pb2.Trust(roots_pem=trusted_roots(cluster), issuer=issuer)
    )
