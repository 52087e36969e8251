"""The Images service: this node's images, straight from its runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from minicommon.errors import FailedPreconditionError, MiniError, UnavailableError
from miniproto.v1 import node_pb2 as pb
from miniproto.v1 import node_pb2_grpc
from miniproto.v1 import objects_pb2 as objects

from miniworker.runtime.api import ImageError, ImageInfo, Images, Login, RegistryUnreachableError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ImagesService(node_pb2_grpc.ImagesServicer):
    def __init__(self, images: Images) -> None:
        self._images = images

    async def Load(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.LoadImageChunk], context: Context
    ) -> pb.LoadImageResponse:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in request_iterator:
                yield chunk.data

        try:
            return pb.LoadImageResponse(loaded=await self._images.load(chunks()))
        except ImageError as error:
            raise _refused(error) from error

    async def List(  # noqa: N802
        self, request: pb.ListImagesRequest, context: Context
    ) -> pb.ListImagesResponse:
        images = await self._images.list_images()
        return pb.ListImagesResponse(images=[_image(image) for image in images])

    async def Remove(  # noqa: N802
        self, request: pb.RemoveImageRequest, context: Context
    ) -> pb.RemoveImageResponse:
        try:
            removal = await self._images.remove_image(request.ref, force=request.force)
        except ImageError as error:
            raise _refused(error) from error
        return pb.RemoveImageResponse(untagged=removal.untagged, deleted=removal.deleted)

    async def Resolve(  # noqa: N802
        self, request: pb.ResolveImageRequest, context: Context
    ) -> pb.ResolveImageResponse:
        auth = request.registry_auth
        login = Login(auth.username, auth.password) if request.HasField("registry_auth") else None
        try:
            found = await self._images.resolve(request.ref, login=login)
        except RegistryUnreachableError as error:
            raise UnavailableError(error.message) from error
        except ImageError as error:
            raise _refused(error) from error
        platforms = [objects.Platform(os=os, architecture=machine) for os, machine in found.platforms]
        return pb.ResolveImageResponse(digest=found.digest, platforms=platforms)


def _refused(error: ImageError) -> MiniError:
    """The runtime's error as one that has a gRPC code."""
    return FailedPreconditionError(error.message)


def _image(image: ImageInfo) -> pb.Image:
    return pb.Image(
        id=image.id,
        references=image.references,
        digests=image.digests,
        created_at_ns=image.created_at_ns,
        size_bytes=image.size_bytes,
    )
