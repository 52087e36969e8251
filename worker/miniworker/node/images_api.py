"""The Images service: this node's images, straight from its runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

import grpc
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from minicommon.log import fields
from miniproto.v1 import node_pb2 as pb
from miniproto.v1 import node_pb2_grpc
from miniproto.v1 import objects_pb2 as objects

from miniworker.runtime.api import (
    ImageError,
    ImageInfo,
    Images,
    Login,
    Progress,
    RegistryUnreachableError,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_BYTES: Final = 256 << 10
"""Per message of a saved archive; well below gRPC's default limit of 4 MiB."""

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

        with _refusals():
            loaded = await self._images.load(chunks())
        _record("load", images=loaded)
        return pb.LoadImageResponse(loaded=loaded)

    async def List(  # noqa: N802
        self, request: pb.ListImagesRequest, context: Context
    ) -> pb.ListImagesResponse:
        images = await self._images.list_images()
        return pb.ListImagesResponse(images=[_image(image) for image in images])

    async def Remove(  # noqa: N802
        self, request: pb.RemoveImageRequest, context: Context
    ) -> pb.RemoveImageResponse:
        with _refusals():
            removal = await self._images.remove_image(request.ref, force=request.force)
        _record("rm", images=[request.ref], deleted=removal.deleted)
        return pb.RemoveImageResponse(untagged=removal.untagged, deleted=removal.deleted)

    async def Resolve(  # noqa: N802
        self, request: pb.ResolveImageRequest, context: Context
    ) -> pb.ResolveImageResponse:
        with _refusals():
            found = await self._images.resolve(request.ref, login=_login(request))
        platforms = [objects.Platform(os=os, architecture=machine) for os, machine in found.platforms]
        return pb.ResolveImageResponse(digest=found.digest, platforms=platforms)

    async def Pull(  # noqa: N802
        self, request: pb.PullImageRequest, context: Context
    ) -> AsyncIterator[pb.PullImageProgress]:
        login = _login(request)
        with _refusals():
            async for status in _told(
                lambda progress: self._images.fetch(request.ref, login=login, progress=progress)
            ):
                if isinstance(status, str):
                    yield pb.PullImageProgress(status=status)
                    continue
                _record("pull", images=[request.ref], digest=status.digest, **_user(login))
                done = pb.PulledImage(reference=status.reference, digest=status.digest, fresh=status.fresh)
                yield pb.PullImageProgress(done=done)

    async def Push(  # noqa: N802
        self, request: pb.PushImageRequest, context: Context
    ) -> AsyncIterator[pb.PushImageProgress]:
        login = _login(request)
        with _refusals():
            async for status in _told(
                lambda progress: self._images.push(request.ref, login=login, progress=progress)
            ):
                if isinstance(status, str):
                    yield pb.PushImageProgress(status=status)
                    continue
                _record("push", images=[request.ref], digest=status.digest, **_user(login))
                done = pb.PushedImage(digest=status.digest, size_bytes=status.size_bytes)
                yield pb.PushImageProgress(done=done)

    async def Save(  # noqa: N802
        self, request: pb.SaveImagesRequest, context: Context
    ) -> AsyncIterator[pb.SaveImagesChunk]:
        if not request.refs:
            raise InvalidArgumentError("refs: at least one image must be named")
        with _refusals():
            async for data in self._images.save(tuple(request.refs)):
                for start in range(0, len(data), CHUNK_BYTES):
                    yield pb.SaveImagesChunk(data=data[start : start + CHUNK_BYTES])
        _record("save", images=request.refs)

    async def Tag(self, request: pb.TagImageRequest, context: Context) -> pb.TagImageResponse:  # noqa: N802
        with _refusals():
            await self._images.tag(request.ref, request.name)
        _record("tag", images=[request.ref], name=request.name)
        return pb.TagImageResponse()

    async def Prune(  # noqa: N802
        self, request: pb.PruneImagesRequest, context: Context
    ) -> pb.PruneImagesResponse:
        with _refusals():
            pruned = await self._images.prune(every=request.all)
        _record("prune", images=pruned.untagged, deleted=pruned.deleted)
        return pb.PruneImagesResponse(
            untagged=pruned.untagged, deleted=pruned.deleted, freed_bytes=pruned.freed_bytes
        )


def _record(action: str, *, images: Iterable[str], **details: object) -> None:
    """Leave a record of what root on this node has done; never a password."""
    logger.info("Image command.", extra=fields(action=action, images=list(images), **details))


def _login(request: Any) -> Login | None:
    auth = request.registry_auth
    return Login(auth.username, auth.password) if request.HasField("registry_auth") else None


def _user(login: Login | None) -> dict[str, str]:
    """Who the registry was told it is."""
    return {"registry_user": login.username} if login is not None else {}


async def _told(work: Callable[[Progress], Coroutine[Any, Any, T]]) -> AsyncIterator[str | T]:
    """What the work says while it is done, then what comes of it. It ends with its reader."""
    said: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.create_task(work(said.put_nowait))
    task.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (line := await said.get()) is not None:
            yield line
        yield await task
    finally:
        task.cancel()


@contextmanager
def _refusals() -> Iterator[None]:
    """The runtime's errors as those that have a gRPC code."""
    try:
        yield
    except RegistryUnreachableError as error:
        raise UnavailableError(error.message) from error
    except ImageError as error:
        raise FailedPreconditionError(error.message) from error


def _image(image: ImageInfo) -> pb.Image:
    return pb.Image(
        id=image.id,
        references=image.references,
        digests=image.digests,
        created_at_ns=image.created_at_ns,
        size_bytes=image.size_bytes,
    )
