"""The Engine's images: moved in and out, listed, resolved, removed by it.

Archives are read here first: what older Engines do not know (OCI layouts, zstd) is passed on as what `docker save`
writes, and what is no archive is refused in one way everywhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from miniworker.runtime.api import (
    Commit,
    ImageError,
    ImageInfo,
    ImageRemoval,
    Login,
    Progress,
    RegistryUnreachableError,
    ResolvedImage,
)
from miniworker.runtime.docker import handle, repack
from miniworker.runtime.docker.engine import Engine, EngineError, NotFoundError, Query, messages
from miniworker.runtime.image_values import PrunedImages, PulledImage, PushedImage
from miniworker.runtime.oci import names

_NONE = ("<none>:<none>", "<none>@<none>")

_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|deadline exceeded|awaiting headers|x509|tls:|no route|"
    r"HTTP response to HTTPS client|network is unreachable"
)
"""Words of Go's network errors, which the Engine passes on."""

_PATIENT_S, _IMPATIENT_S = 15.0, 3.0
"""How long a registry may take to say what a name stands for; the less when the image is here anyway."""

_CONTAINER = re.compile(r"(?<=container )[0-9a-f]{12}\b")

TaskIds = Callable[[], Awaitable[Mapping[str, str]]]
"""The task of each container of ours, by the Engine's id."""


class DockerImages:
    """Implements `Images`, and the parts of `Runtime` about images."""

    def __init__(self, engine: Engine, task_ids: TaskIds, *, folder: Path) -> None:
        self._engine = engine
        self._task_ids = task_ids
        self._folder = folder
        """For archives on their way."""

    async def load(self, chunks: AsyncIterator[bytes]) -> tuple[str, ...]:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".load-") as folder:
            raw, packed = Path(folder, "raw"), Path(folder, "packed")
            with await asyncio.to_thread(raw.open, "wb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            loaded = await asyncio.to_thread(repack.repack, raw, packed)
            with await asyncio.to_thread(packed.open, "rb") as archive:
                try:
                    async with self._engine.stream(
                        "POST", "/images/load", {"quiet": True}, data=archive
                    ) as answer:
                        await self._follow(answer, None)
                except EngineError as error:
                    raise ImageError(f"invalid archive: {error}") from None
        return loaded

    async def list_images(self) -> tuple[ImageInfo, ...]:
        told = await self._engine.get("/images/json")
        own = handle.own_ids()
        images = [_info(each) for each in told if each["Id"] not in own]
        return tuple(sorted(images, key=lambda image: image.created_at_ns, reverse=True))

    async def resolve(self, ref: str, *, login: Login | None = None) -> ResolvedImage:
        name = names.parse(ref)
        seconds = _IMPATIENT_S if await self.find(ref) else _PATIENT_S
        try:
            async with (
                asyncio.timeout(seconds),
                self._engine.stream(
                    "GET", f"/distribution/{name.familiar}/json", headers=_authority(login)
                ) as answer,
            ):
                told = json.loads(await answer.read())
        except TimeoutError:
            raise RegistryUnreachableError(
                f"registry {name.registry} does not answer within {seconds:g} s"
            ) from None
        except EngineError as error:
            raise _registry_error(str(error)) from None
        platforms = [(each["os"], each["architecture"]) for each in told.get("Platforms") or ()]
        return ResolvedImage(told["Descriptor"]["digest"], tuple(platforms))

    async def remove_image(self, ref: str, *, force: bool = False) -> ImageRemoval:
        try:
            told = await self._engine.delete(f"/images/{ref}", {"force": force})
        except NotFoundError:
            raise ImageError(f"No such image: {_shown(ref)}") from None
        except EngineError as error:
            tasks = {key[:12]: task[:12] for key, task in (await self._task_ids()).items()}
            said = _CONTAINER.sub(lambda found: tasks.get(found[0], found[0]), str(error))
            raise ImageError(said) from None
        return ImageRemoval(
            untagged=tuple(each["Untagged"] for each in told if "Untagged" in each),
            deleted=tuple(each["Deleted"] for each in told if "Deleted" in each),
        )

    async def pull(self, image: str, *, login: Login | None, progress: Progress | None) -> str:
        name = names.parse(image)
        local = await self.find(image)
        if local and name.digest:
            return local
        try:
            await self._create(name, login, progress)
        except (EngineError, ImageError) as error:
            if local:
                return local
            raise ImageError(f"No such image: {name.familiar} ({error})") from None
        return await self.find(image) or image

    async def _create(self, name: names.ImageName, login: Login | None, progress: Progress | None) -> None:
        """Have the Engine pull it. Raises EngineError, ImageError."""
        repository = names.shorten(name.full) if name.digest else _repository(name)
        query = {"fromImage": repository} | ({} if name.digest else {"tag": name.tag})
        async with self._engine.stream("POST", "/images/create", query, headers=_authority(login)) as answer:
            await self._follow(answer, progress, f"pulling {name.familiar}")

    async def fetch(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PulledImage:
        name = names.parse(ref)
        before = await self.find(ref)
        try:
            await self._create(name, login, progress)
        except (EngineError, ImageError) as error:
            raise _registry_error(str(error)) from None
        told = await self.inspect(ref)
        known = (each.partition("@") for each in told["RepoDigests"] or ())
        digests = [digest for repository, _, digest in known if repository == _repository(name)]
        return PulledImage(
            name.full, name.digest or (digests[-1] if digests else ""), fresh=told["Id"] != before
        )

    async def push(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PushedImage:
        name = names.parse(ref)
        if name.digest:
            raise ImageError(f"cannot push a digest reference: {name.familiar}")
        if not await self.find(ref):
            raise ImageError(f"An image does not exist locally with the tag: {name.familiar}")
        path = f"/images/{_repository(name)}/push"
        pushed = None
        try:
            async with self._engine.stream(
                "POST", path, {"tag": name.tag}, headers=_authority(login)
            ) as answer:
                async for message in messages(answer):
                    if "error" in message:
                        raise _registry_error(str(message["error"]))
                    if "Digest" in (aux := message.get("aux") or {}):
                        pushed = PushedImage(str(aux["Digest"]), int(aux["Size"]))
                    if progress is not None and message.get("id") and not message.get("progress"):
                        progress(f"{message['id']}: {message.get('status', '')}")
        except EngineError as error:
            raise _registry_error(str(error)) from None
        if pushed is None:
            raise ImageError(f"the Docker Engine did not say that {name.familiar} has been pushed")
        return pushed

    async def save(self, refs: tuple[str, ...]) -> AsyncIterator[bytes]:
        for ref in refs:
            await self.inspect(ref)  # else the Engine breaks off in the middle
        async with self._engine.stream("GET", "/images/get", {"names": refs}) as answer:
            async for data in answer.content.iter_any():
                yield data

    async def tag(self, ref: str, name: str) -> None:
        wanted = names.parse(name)
        if wanted.digest:
            raise ImageError("refusing to create a tag with a digest reference")
        query = {"repo": _repository(wanted), "tag": wanted.tag}
        try:
            await self._engine.post(f"/images/{ref}/tag", query=query)
        except NotFoundError:
            raise ImageError(f"No such image: {_shown(ref)}") from None
        except EngineError as error:
            raise ImageError(str(error)) from None

    async def prune(self, *, every: bool = False) -> PrunedImages:
        filters = json.dumps({"dangling": {"false" if every else "true": True}})
        told = await self._engine.post("/images/prune", query={"filters": filters})
        items = told["ImagesDeleted"] or ()
        own = handle.own_ids()
        return PrunedImages(
            untagged=tuple(each["Untagged"] for each in items if "Untagged" in each),
            deleted=tuple(each["Deleted"] for each in items if each.get("Deleted", "") not in ("", *own)),
            freed_bytes=int(told["SpaceReclaimed"]),
        )

    async def find(self, ref: str) -> str:
        """The image's id; empty: it is not here."""
        try:
            return str((await self._engine.get(f"/images/{ref}/json"))["Id"])
        except NotFoundError:
            return ""
        except EngineError as error:
            raise ImageError(str(error)) from None

    async def inspect(self, ref: str) -> dict[str, Any]:
        """Raises ImageError."""
        try:
            found: dict[str, Any] = await self._engine.get(f"/images/{ref}/json")
        except NotFoundError:
            raise ImageError(f"No such image: {_shown(ref)}") from None
        except EngineError as error:
            raise ImageError(str(error)) from None
        return found

    async def commit(self, container: str, commit: Commit) -> str:
        name = names.parse(commit.reference) if commit.reference else None
        query: Query = {
            "container": container,
            "author": commit.author,
            "comment": commit.message,
            "pause": commit.pause,
        }
        if commit.changes:
            query = {**query, "changes": "\n".join(commit.changes)}
        if name is not None:
            query = {**query, "repo": _repository(name), "tag": name.tag}
        try:
            return str((await self._engine.post("/commit", {}, query))["Id"])
        except NotFoundError:
            raise
        except EngineError as error:
            raise ImageError(str(error)) from None

    @staticmethod
    async def _follow(answer: Any, progress: Progress | None, what: str = "") -> None:
        """Read the messages to the end. Raises ImageError for the one that says what went wrong."""
        async for message in messages(answer):
            if "error" in message:
                raise ImageError(str(message["error"]))
            if progress is not None and (said := message.get("status")):
                progress(f"{what}: {' '.join(filter(None, (said, message.get('progress', ''))))}")


def _repository(name: names.ImageName) -> str:
    """As the Engine knows it: without docker.io/library, and without tag or digest."""
    return names.shorten(f"{name.registry}/{name.repository}:{name.tag or 'latest'}").rpartition(":")[0]


def _info(told: Mapping[str, Any]) -> ImageInfo:
    return ImageInfo(
        id=told["Id"],
        references=tuple(sorted(each for each in told["RepoTags"] or () if each not in _NONE)),
        digests=tuple(sorted(each for each in told["RepoDigests"] or () if each not in _NONE)),
        created_at_ns=int(told["Created"]) * 1_000_000_000,
        size_bytes=int(told["Size"]),
    )


def _authority(login: Login | None) -> dict[str, str]:
    given = {"username": login.username, "password": login.password} if login is not None else {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(given).encode()).decode()}


def _registry_error(said: str) -> ImageError:
    return RegistryUnreachableError(said) if _UNREACHABLE.search(said) else ImageError(said)


def _shown(ref: str) -> str:
    try:
        return names.parse(ref).familiar
    except ImageError:
        return ref
