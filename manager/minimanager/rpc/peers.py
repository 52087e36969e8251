"""The other managers, as the statuses of the nodes tell of them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials

from minimanager.domain.objects import NodeState
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core


class ManagerPeers:
    """Implements `Peers` from the cache."""

    def __init__(self, core: Core, credentials: Callable[[], NodeCredentials]) -> None:
        self._core = core
        self._credentials = credentials

    def nodes(self) -> list[str]:
        snapshot = self._core.cache.snapshot()
        return [node_id for node_id in snapshot.node_statuses if self._holder(snapshot, node_id)]

    def address(self, node_id: str) -> str:
        return self._holder(self._core.cache.snapshot(), node_id)

    def dial(self, address: str) -> grpc.aio.Channel:
        return manager_channel(address, self._credentials())

    def _holder(self, snapshot: Snapshot, node_id: str) -> str:
        status = snapshot.node_statuses.get(node_id)
        if status is None or status.state is not NodeState.READY or node_id not in snapshot.nodes:
            return ""
        if status.session_manager == self._core.node_id:
            return ""
        manager = snapshot.node_statuses.get(status.session_manager)
        return manager.manager_address if manager is not None else ""
