"""The Volumes service: this node's named volumes, straight from its runtime."""

from __future__ import annotations

import secrets
from typing import Any, TypeAlias

import grpc
from minicommon.errors import FailedPreconditionError, NotFoundError
from miniproto.v1 import node_pb2 as pb
from miniproto.v1 import node_pb2_grpc

from miniworker.runtime.api import NoSuchVolumeError, Volume, VolumeError, Volumes

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

ANONYMOUS = "com.docker.volume.anonymous"
"""Docker's label for a volume that nobody gave a name."""

_NAME_BYTES = 32
"""Of a name that is made up: 64 hexadecimal digits, as Docker's."""


class VolumesService(node_pb2_grpc.VolumesServicer):
    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def Create(self, request: pb.CreateVolumeRequest, context: Context) -> pb.Volume:  # noqa: N802
        labels = dict(request.labels)
        if not request.name:
            labels[ANONYMOUS] = ""
        name = request.name or secrets.token_hex(_NAME_BYTES)
        try:
            return _volume(await self._volumes.create_volume(name, labels))
        except VolumeError as error:
            raise FailedPreconditionError(error.message) from error

    async def Get(self, request: pb.GetVolumeRequest, context: Context) -> pb.Volume:  # noqa: N802
        try:
            return _volume(await self._volumes.get_volume(request.name))
        except NoSuchVolumeError as error:
            raise NotFoundError(error.message) from error

    async def List(  # noqa: N802
        self, request: pb.ListVolumesRequest, context: Context
    ) -> pb.ListVolumesResponse:
        return pb.ListVolumesResponse(volumes=map(_volume, await self._volumes.list_volumes()))

    async def Remove(  # noqa: N802
        self, request: pb.RemoveVolumeRequest, context: Context
    ) -> pb.RemoveVolumeResponse:
        try:
            return pb.RemoveVolumeResponse(freed_bytes=await self._volumes.remove_volume(request.name))
        except NoSuchVolumeError as error:
            if request.force:
                return pb.RemoveVolumeResponse()
            raise NotFoundError(error.message) from error
        except VolumeError as error:
            raise FailedPreconditionError(error.message) from error


def _volume(volume: Volume) -> pb.Volume:
    return pb.Volume(
        name=volume.name,
        mountpoint=volume.mountpoint,
        created_at_ns=volume.created_at_ns,
        labels=volume.labels,
        used_by=volume.used_by,
    )
