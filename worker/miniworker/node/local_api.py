"""The LocalNode service: the node's own life, for root on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeAlias

import grpc
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import node_pb2 as pb
from miniproto.v1 import node_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class NodeLife(Protocol):
    """What the daemon does for the service."""

    def info(self) -> pb.LocalInfo: ...

    async def init(self, request: pb.InitRequest) -> pb.InitResponse: ...

    async def join(self, request: pb.JoinClusterRequest) -> pb.JoinClusterResponse: ...

    async def leave(self, *, force: bool) -> None: ...

    async def restore(
        self, options: pb.RestoreOptions, content: AsyncIterator[bytes]
    ) -> pb.RestoreResponse: ...

    async def unlock(self, key: str) -> None: ...


class LocalNodeService(node_pb2_grpc.LocalNodeServicer):
    def __init__(self, node: NodeLife) -> None:
        self._node = node

    async def Info(self, request: pb.InfoRequest, context: Context) -> pb.LocalInfo:  # noqa: N802
        return self._node.info()

    async def Init(self, request: pb.InitRequest, context: Context) -> pb.InitResponse:  # noqa: N802
        return await self._node.init(request)

    async def Join(  # noqa: N802
        self, request: pb.JoinClusterRequest, context: Context
    ) -> pb.JoinClusterResponse:
        return await self._node.join(request)

    async def Unlock(  # noqa: N802
        self, request: pb.UnlockNodeRequest, context: Context
    ) -> pb.UnlockNodeResponse:
        await self._node.unlock(request.key)
        return pb.UnlockNodeResponse()

    async def Leave(  # noqa: N802
        self, request: pb.LeaveClusterRequest, context: Context
    ) -> pb.LeaveClusterResponse:
        await self._node.leave(force=request.force)
        return pb.LeaveClusterResponse()

    async def Restore(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RestoreChunk], context: Context
    ) -> pb.RestoreResponse:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("options"):
            raise InvalidArgumentError("restore: the first message must have the options")

        async def content() -> AsyncIterator[bytes]:
            yield first.data
            async for chunk in request_iterator:
                yield chunk.data

        return await self._node.restore(first.options, content())
