"""The images of the runtime in memory: real archives, whose layers are kept as they came."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from miniworker.runtime.api import (
    NO_HEALTH_CHECK,
    HealthCheck,
    ImageError,
    ImageInfo,
    ImageRemoval,
    Login,
    Progress,
    RegistryUnreachableError,
    ResolvedImage,
)
from miniworker.runtime.image_values import PrunedImages, PulledImage, PushedImage
from miniworker.runtime.oci import names
from miniworker.runtime.oci.archive import Archive
from miniworker.runtime.oci.digest import of_bytes
from miniworker.runtime.oci.manifest import image_config


class Registry(Protocol):
    """What its runtime knows: what can be pulled, and which images containers use."""

    def serves(self, name: str) -> bool:
        """Whether an image of this full name can be pulled."""

    def users(self, image_id: str) -> Sequence[str]:
        """The containers of this image."""

    async def pull(self, image: str, *, login: Login | None = None, progress: Progress | None = None) -> str:
        """As `Runtime.pull`."""

    def serve(self, name: str) -> None:
        """From now on an image of this full name can be pulled."""


@dataclass(slots=True)
class _Image:
    id: str
    references: list[str]
    created_at_ns: int
    size_bytes: int
    health: HealthCheck = NO_HEALTH_CHECK
    config: bytes = b"{}"
    layers: dict[str, bytes] = field(default_factory=dict)
    """By their paths in an archive."""


class FakeImages:
    """Implements `Images`: real archives, whose layers it does not look at."""

    def __init__(self, runtime: Registry) -> None:
        self._runtime = runtime
        self._images: dict[str, _Image] = {}
        self._pushed: dict[str, _Image] = {}
        """What its registry was given, by full name."""

    def put(
        self,
        image_id: str,
        reference: str,
        created_at_ns: int,
        size_bytes: int,
        health: HealthCheck = NO_HEALTH_CHECK,
    ) -> None:
        """The image is there, under this full reference; empty: under none."""
        for other in self._images.values():
            if reference in other.references:
                other.references.remove(reference)
        image = self._images.setdefault(image_id, _Image(image_id, [], created_at_ns, size_bytes, health))
        if reference:
            image.references.append(reference)

    def arrive(self, name: str, now_ns: int) -> None:
        """The image of this full name is pulled."""
        if (pushed := self._pushed.get(name)) is None:
            self.put(of_bytes(name.encode()), name, now_ns, 0)
            return
        self.put(pushed.id, name, pushed.created_at_ns, pushed.size_bytes, pushed.health)
        kept = self._images[pushed.id]
        kept.config, kept.layers = pushed.config, pushed.layers

    def find(self, ref: str) -> _Image:
        """By reference or id. Raises ImageError."""
        if ref in self._images:
            return self._images[ref]
        name = names.parse(ref)
        for image in self._images.values():
            if name.full in image.references:
                return image
        raise ImageError(f"No such image: {name.familiar}")

    async def load(self, chunks: AsyncIterator[bytes]) -> tuple[str, ...]:
        loaded: list[str] = []
        data = b"".join([chunk async for chunk in chunks])
        with tempfile.NamedTemporaryFile(prefix="fake-images-") as file:
            file.write(data)
            file.flush()
            with closing(Archive(Path(file.name))) as archive:
                found = archive.images()
                parts = [{path: _extract(archive, path) for path in image.layers} for image in found]
        for image, layers in zip(found, parts, strict=True):
            settings = image_config(image.config)
            references = [names.parse(reference).full for reference in image.references]
            for reference in references or [""]:
                self.put(
                    of_bytes(image.config), reference, settings.created_at_ns, len(data), settings.health
                )
            kept = self._images[of_bytes(image.config)]
            kept.config, kept.layers = image.config, layers
            loaded += [names.shorten(reference) for reference in references] or [of_bytes(image.config)]
        return tuple(loaded)

    async def resolve(self, ref: str, *, login: Login | None = None) -> ResolvedImage:
        name = names.parse(ref)
        if not self._runtime.serves(name.full):
            raise RegistryUnreachableError(f"registry {name.registry} does not answer")
        return ResolvedImage(of_bytes(name.full.encode()), (("linux", "amd64"),))

    async def fetch(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PulledImage:
        name = names.parse(ref)
        digest = (await self.resolve(ref, login=login)).digest
        before = {image.id for image in self._images.values() if name.full in image.references}
        image_id = await self._runtime.pull(ref, login=login, progress=progress)
        return PulledImage(name.full, digest, fresh=image_id not in before)

    async def push(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PushedImage:
        name = names.parse(ref)
        if name.digest:
            raise ImageError(f"cannot push a digest reference: {name.familiar}")
        image = next((each for each in self._images.values() if name.full in each.references), None)
        if image is None:
            raise ImageError(f"An image does not exist locally with the tag: {name.familiar}")
        self._pushed[name.full] = image
        self._runtime.serve(name.full)
        return PushedImage(of_bytes(name.full.encode()), 0)

    async def save(self, refs: tuple[str, ...]) -> AsyncIterator[bytes]:
        buffer = io.BytesIO()
        entries = []
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for ref in refs:
                image = self.find(ref)
                config = f"{image.id[7:]}.json"
                for path, data in {**image.layers, config: image.config}.items():
                    _write(archive, path, data)
                tags = [] if ref == image.id else [names.parse(ref).familiar]
                entries.append({"Config": config, "RepoTags": tags, "Layers": list(image.layers)})
            _write(archive, "manifest.json", json.dumps(entries).encode())
        yield buffer.getvalue()

    async def tag(self, ref: str, name: str) -> None:
        wanted = names.parse(name)
        if wanted.digest:
            raise ImageError("refusing to create a tag with a digest reference")
        image = self.find(ref)
        self.put(image.id, wanted.full, image.created_at_ns, image.size_bytes)

    async def prune(self, *, every: bool = False) -> PrunedImages:
        going = [
            image
            for image in self._images.values()
            if not self._runtime.users(image.id) and (every or not image.references)
        ]
        for image in going:
            del self._images[image.id]
        return PrunedImages(
            untagged=tuple(names.shorten(name) for image in going for name in image.references),
            deleted=tuple(image.id for image in going),
            freed_bytes=sum(image.size_bytes for image in going),
        )

    async def list_images(self) -> tuple[ImageInfo, ...]:
        newest = sorted(self._images.values(), key=lambda image: (-image.created_at_ns, image.id))
        return tuple(
            ImageInfo(
                id=image.id,
                references=tuple(map(names.shorten, image.references)),
                digests=(),
                created_at_ns=image.created_at_ns,
                size_bytes=image.size_bytes,
            )
            for image in newest
        )

    async def remove_image(self, ref: str, *, force: bool = False) -> ImageRemoval:
        image = self.find(ref)
        by_id = ref == image.id
        going = tuple(image.references) if by_id else (names.parse(ref).full,)
        last = by_id or len(image.references) == 1
        users = self._runtime.users(image.id)
        if last and users and not force:
            raise ImageError(
                f'conflict: unable to remove repository reference "{ref}" (must force) - '
                f"container {users[0][:12]} is using its referenced image {image.id[7:19]}"
            )
        image.references = [reference for reference in image.references if reference not in going]
        if last:
            del self._images[image.id]
        return ImageRemoval(tuple(map(names.shorten, going)), (image.id,) if last else ())


def _extract(archive: Archive, path: str) -> bytes:
    with tempfile.NamedTemporaryFile(prefix="fake-images-") as file:
        archive.extract(path, Path(file.name))
        return file.read()


def _write(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
