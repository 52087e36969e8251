"""The Engine's images: pulled, loaded, listed, resolved, removed by it.

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
from miniworker.runtime.docker.engine import Engine, EngineError, NotFoundError, messages
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
        repository = names.shorten(name.full) if name.digest else name.familiar.rpartition(":")[0]
        query = {"fromImage": repository} | ({} if name.digest else {"tag": name.tag})
        try:
            async with self._engine.stream(
                "POST", "/images/create", query, headers=_authority(login)
            ) as answer:
                await self._follow(answer, progress, name.familiar)
        except (EngineError, ImageError) as error:
            if local:
                return local
            raise ImageError(f"No such image: {name.familiar} ({error})") from None
        return await self.find(image) or image

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
        query: dict[str, str | int | bool] = {
            "container": container,
            "author": commit.author,
            "comment": commit.message,
            "pause": commit.pause,
        }
        if commit.changes:
            query["changes"] = "\n".join(commit.changes)
        if name is not None:
            query |= {"repo": name.familiar.rpartition(":")[0], "tag": name.tag}
        try:
            return str((await self._engine.post("/commit", {}, query))["Id"])
        except NotFoundError:
            raise
        except EngineError as error:
            raise ImageError(str(error)) from None

    @staticmethod
    async def _follow(answer: Any, progress: Progress | None, name: str = "") -> None:
        """Read the messages to the end. Raises ImageError for the one that says what went wrong."""
        async for message in messages(answer):
            if "error" in message:
                raise ImageError(str(message["error"]))
            if progress is not None and (said := message.get("status")):
                progress(f"pulling {name}: {' '.join(filter(None, (said, message.get('progress', ''))))}")


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
