"""The node's images for `minictl image` and for containers: finding, moving in and out, listing, removing."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from miniworker.runtime.api import (
    Commit,
    ImageError,
    ImageInfo,
    ImageRemoval,
    Login,
    Progress,
    ResolvedImage,
)
from miniworker.runtime.image_values import PrunedImages, PulledImage, PushedImage
from miniworker.runtime.oci import compression, names
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import manifest as manifests
from miniworker.runtime.oci.archive import Archive, ArchivedImage
from miniworker.runtime.oci.commit import Origin, image_document
from miniworker.runtime.oci.image_index import ImageRecord
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.pull import Puller
from miniworker.runtime.oci.push import Pusher
from miniworker.runtime.oci.records import ContainerRecord
from miniworker.runtime.oci.save import write_archive

Users = Callable[[], tuple[ContainerRecord, ...]]
"""The containers that exist, whatever their state."""


_SHORT = 12
"""Digits of an id in messages."""


class OciImages:
    """Implements `Images`."""

    def __init__(self, store: ImageStore, users: Users, *, puller: Puller, pusher: Pusher) -> None:
        self._store = store
        self._users = users
        self._puller = puller
        self._pusher = pusher

    async def load(self, chunks: AsyncIterator[bytes]) -> tuple[str, ...]:
        raw = self._store.content.temporary()
        plain = self._store.content.temporary()
        self._store.adding += 1
        try:
            with raw.open("wb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_decompress, raw, plain)
            archive = await asyncio.to_thread(Archive, plain)
            try:
                loaded: list[str] = []
                for image in await asyncio.to_thread(archive.images):
                    loaded += await self._enter(archive, image)
            finally:
                archive.close()
        finally:
            self._store.adding -= 1
            raw.unlink(missing_ok=True)
            plain.unlink(missing_ok=True)
        if not loaded:
            raise ImageError("invalid archive: there is no image in it")
        return tuple(loaded)

    async def commit(self, record: ContainerRecord, commit: Commit, *, write: Callable[[Path], None]) -> str:
        """Enter an image of the container, whose own layer `write` writes into a file; the image's id."""
        references = (names.parse(commit.reference).full,) if commit.reference else ()
        config = await asyncio.to_thread(self._store.content.read, record.image_id)
        blob = self._store.content.temporary()
        self._store.adding += 1
        try:
            await asyncio.to_thread(write, blob)
            diff_id = await asyncio.to_thread(digests.of_file, blob)
            document = image_document(Origin(config, diff_id, record.arguments), commit)
            chain = digests.chain_ids(manifests.image_config(document).diff_ids)
            await self._store.layers.unpack(blob, chain, diff_id)
            return self._store.add(document, references=references).id
        finally:
            self._store.adding -= 1
            blob.unlink(missing_ok=True)

    async def resolve(self, ref: str, *, login: Login | None = None) -> ResolvedImage:
        return await self._puller.resolve(names.parse(ref), login=login)

    async def fetch(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PulledImage:
        name = names.parse(ref)
        before = self._store.index.by_name(name.full)
        record = await self._puller.pull(name, login=login, progress=progress, strict=True)
        known = [each for each in record.repo_digests if each.startswith(name.with_digest(""))]
        digest = name.digest or known[-1].rpartition("@")[2]
        return PulledImage(name.full, digest, fresh=before is None or before.id != record.id)

    async def push(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PushedImage:
        name = names.parse(ref)
        if name.digest:
            raise ImageError(f"cannot push a digest reference: {name.familiar}")
        record = self._store.index.by_name(name.full)
        if record is None:
            raise ImageError(f"An image does not exist locally with the tag: {name.familiar}")
        with self._kept():
            return await self._pusher.push(record, name, login=login, progress=progress or _silent)

    async def save(self, refs: tuple[str, ...]) -> AsyncIterator[bytes]:
        found = [self.find(ref) for ref in refs]
        file = self._store.content.temporary()
        with self._kept():
            try:
                await asyncio.to_thread(write_archive, self._store, found, file)
                with await asyncio.to_thread(file.open, "rb") as archive:
                    while data := await asyncio.to_thread(archive.read, digests.CHUNK):
                        yield data
            finally:
                file.unlink(missing_ok=True)

    async def tag(self, ref: str, name: str) -> None:
        record, _ = self.find(ref)
        wanted = names.parse(name)
        if wanted.digest:
            raise ImageError("refusing to create a tag with a digest reference")
        self._store.index.put(dataclasses.replace(record, references=(wanted.full,), repo_digests=()))

    async def prune(self, *, every: bool = False) -> PrunedImages:
        used = {user.image_id for user in self._users()}
        going = [
            record
            for record in self._store.index.all()
            if record.id not in used and (every or not record.references)
        ]
        sizes = {chain_id: self._store.layers.size(chain_id) for record in going for chain_id in record.chain}
        for record in going:
            self._store.index.delete(record.id)
        layers = await asyncio.to_thread(self._collect)
        return PrunedImages(
            untagged=tuple(names.shorten(name) for record in going for name in record.names),
            deleted=(*(record.id for record in going), *layers),
            freed_bytes=sum(size for chain_id, size in sizes.items() if not self._store.layers.has(chain_id)),
        )

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """No layer is cleared away while it is read."""
        self._store.adding += 1
        try:
            yield
        finally:
            self._store.adding -= 1

    async def list_images(self) -> tuple[ImageInfo, ...]:
        return tuple(
            ImageInfo(
                id=record.id,
                references=tuple(map(names.shorten, record.references)),
                digests=tuple(map(names.shorten, record.repo_digests)),
                created_at_ns=record.created_at_ns,
                size_bytes=record.size_bytes,
            )
            for record in self._store.index.all()
        )

    async def remove_image(self, ref: str, *, force: bool = False) -> ImageRemoval:
        record, name = self.find(ref)
        if name is None and len(record.references) > 1 and not force:
            raise ImageError(
                f"conflict: unable to delete {_short(record.id)} (must be forced) - "
                "image is referenced in multiple repositories"
            )
        going = record.names if name is None else (name,)
        rest = [other for other in record.references if other not in going]
        last = name is None or not rest
        if last:
            going = record.names  # a digest alone does not keep an image that has lost its last tag
            self._refuse_if_used(record, ref, force=force)
        self._store.index.drop_names(record.id, going)
        deleted: tuple[str, ...] = ()
        if last:
            self._store.index.delete(record.id)
            deleted = (record.id, *await asyncio.to_thread(self._collect))
        return ImageRemoval(untagged=tuple(map(names.shorten, going)), deleted=deleted)

    def find(self, ref: str) -> tuple[ImageRecord, str | None]:
        """The image and the full name it was found by, None by its id. Raises ImageError."""
        by_id = self._store.index.by_id_prefix(ref)
        if ref.startswith("sha256:") and len(by_id) == 1:
            return by_id[0], None
        try:
            name = names.parse(ref)
        except ImageError:
            if not by_id:
                raise
        else:
            record = self._store.index.by_name(name.full)
            if record is not None:
                return record, name.full
        if len(by_id) == 1:
            return by_id[0], None
        if by_id:
            raise ImageError(f"{ref!r} is the beginning of {len(by_id)} image ids; give more digits")
        raise ImageError(f"No such image: {names.parse(ref).familiar}")

    def _refuse_if_used(self, record: ImageRecord, ref: str, *, force: bool) -> None:
        if force:
            return  # a container keeps its layers; only the name and the configuration go
        for user in self._users():
            if user.image_id == record.id:
                raise ImageError(
                    f'conflict: unable to remove repository reference "{ref}" (must force) - '
                    f"container {user.id[:_SHORT]} is using its referenced image {_short(record.id)}"
                )

    def _collect(self) -> tuple[str, ...]:
        return self._store.collect(used={chain_id for user in self._users() for chain_id in user.chain})

    async def _enter(self, archive: Archive, image: ArchivedImage) -> tuple[str, ...]:
        """Unpack one image of the archive and enter it; what to call it when telling the user."""
        config = manifests.image_config(image.config)
        if len(config.diff_ids) != len(image.layers):
            raise ImageError(
                f"invalid archive: {len(image.layers)} layers, but {len(config.diff_ids)} in the configuration"
            )
        references = tuple(names.parse(reference).full for reference in image.references)
        chain = digests.chain_ids(config.diff_ids)
        for number, path in enumerate(image.layers):
            if self._store.layers.has(chain[number]):
                continue
            blob = self._store.content.temporary()
            try:
                await asyncio.to_thread(archive.extract, path, blob)
                await self._store.layers.unpack(blob, chain[: number + 1], config.diff_ids[number])
            finally:
                blob.unlink(missing_ok=True)
        record = self._store.add(image.config, references=references)
        return tuple(map(names.shorten, references)) or (record.id,)


def _decompress(source: Path, target: Path) -> None:
    try:
        with compression.open_plain(source) as plain, target.open("wb") as file:
            shutil.copyfileobj(plain, file, digests.CHUNK)
    except compression.StreamError as error:
        raise ImageError(f"invalid archive: {error}") from error


def _silent(_: str) -> None:
    return


def _short(image_id: str) -> str:
    return digests.hex_of(image_id)[:_SHORT]
