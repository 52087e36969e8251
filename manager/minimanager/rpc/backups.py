"""Backups of the cluster, for admins: the answer is the file itself, sealed before it leaves the manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from miniproto.v1 import backup_pb2, backup_pb2_grpc

from minimanager.backup.making import BackupMaker
from minimanager.rpc.requests import check

Context = aio.ServicerContext[Any, Any]


class BackupsServicer(backup_pb2_grpc.BackupsServicer):
    def __init__(self, maker: BackupMaker) -> None:
        self._maker = maker

    async def Create(
        self, request: backup_pb2.CreateBackupRequest, context: Context
    ) -> AsyncIterator[backup_pb2.BackupChunk]:
        check(request)
        async for data in self._maker.file(request.passphrase):
            yield backup_pb2.BackupChunk(data=data)
