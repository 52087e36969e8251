"""Pulling: from a name to an image that is wholly present."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from minicommon.clock import SECOND, Clock, SystemClock
from minicommon.units import human_size

from miniworker.runtime.api import ImageError, Login, Progress, RegistryUnreachableError, ResolvedImage
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import manifest as manifests
from miniworker.runtime.oci.image_index import ImageRecord
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.manifest import Descriptor, Manifest
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.registry.client import RegistryClient
from miniworker.runtime.oci.registry.download import download

logger = logging.getLogger(__name__)

_SILENCE_NS = 60 * SECOND
"""How long a registry that did not answer is not asked again about images that are here: a host without a way out
would otherwise wait for the resolver's timeout before every start."""

_PATIENT_S, _IMPATIENT_S = 15.0, 3.0
"""How long a registry may take to say what a name stands for; the less when the image is here anyway."""


class Puller:
    """Pulls each name once at a time, however many tasks ask for it together."""

    def __init__(
        self, store: ImageStore, client: RegistryClient, *, parallel: int, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._client = client
        self._parallel = parallel
        self._clock = clock or SystemClock()
        self._silent_until_ns: dict[str, int] = {}
        self._running: dict[tuple[str, Login | None, bool], asyncio.Task[ImageRecord]] = {}

    async def pull(
        self,
        name: ImageName,
        *,
        login: Login | None = None,
        progress: Progress | None = None,
        strict: bool = False,
    ) -> ImageRecord:
        """The image, newer from its registry if there is a newer one, else the local copy. Raises ImageError.

        `strict`: without the registry's answer a local copy does not do.
        """
        if name.digest and (pinned := self._store.index.by_name(name.full)):
            return pinned
        key = (name.full, login, strict)
        task = self._running.get(key)
        if task is None:
            client = self._client.as_user(login)
            work = self._pull(name, client, progress or _silent, strict=strict)
            task = asyncio.create_task(work, name=f"pull {name.familiar}")
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def resolve(self, name: ImageName, *, login: Login | None = None) -> ResolvedImage:
        """What the name stands for in its registry. Raises ImageError."""
        here = self._store.index.by_name(name.full) is not None
        if here and self._is_silent(name):
            raise RegistryUnreachableError(f"registry {name.registry} did not answer a moment ago")
        seconds = _IMPATIENT_S if here else _PATIENT_S
        try:
            async with asyncio.timeout(seconds):
                return await self._resolve(name, self._client.as_user(login))
        except TimeoutError:
            self._note_silence(name)
            raise RegistryUnreachableError(
                f"registry {name.registry} does not answer within {seconds:g} s"
            ) from None
        except RegistryUnreachableError:
            self._note_silence(name)
            raise

    async def _resolve(self, name: ImageName, client: RegistryClient) -> ResolvedImage:
        data, media_type, digest = await client.manifest(name, name.target)
        value = manifests.document(data, "the manifest")
        if manifests.is_index(value, media_type):
            return ResolvedImage(digest, manifests.platforms(value))
        config = manifests.manifest(value).config
        if config.size > manifests.MAX_DOCUMENT:
            raise ImageError(f"the configuration of {name.familiar} has {config.size} bytes, too many")
        return ResolvedImage(digest, manifests.platforms_of_config(await client.blob(name, config.digest)))

    def _is_silent(self, name: ImageName) -> bool:
        return self._clock.now_ns() < self._silent_until_ns.get(name.registry, 0)

    def _note_silence(self, name: ImageName) -> None:
        self._silent_until_ns[name.registry] = self._clock.now_ns() + _SILENCE_NS

    async def close(self) -> None:
        """Break off what is being pulled; partial layers stay for the next time."""
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pull(
        self, name: ImageName, client: RegistryClient, progress: Progress, *, strict: bool
    ) -> ImageRecord:
        local = self._store.index.by_name(name.full)
        if local is not None and not strict and self._is_silent(name):
            return local
        self._store.adding += 1
        try:
            return await self._from_registry(name, client, local, progress)
        except ImageError as error:
            if strict:
                raise
            if local is None:
                raise ImageError(f"No such image: {name.familiar} ({error})") from error
            level = logging.WARNING
            if isinstance(error, RegistryUnreachableError):
                level = logging.DEBUG  # usual where images are loaded by hand
                self._note_silence(name)
            logger.log(
                level,
                "Pull failed, the local copy is used.",
                extra={"image": name.familiar, "error": str(error)},
            )
            return local
        finally:
            self._store.adding -= 1

    async def _from_registry(
        self, name: ImageName, client: RegistryClient, local: ImageRecord | None, progress: Progress
    ) -> ImageRecord:
        if local is not None:
            current = await client.resolve(name)
            if current and name.with_digest(current) in local.repo_digests:
                return local
        progress(f"pulling {name.familiar}")
        data, media_type, digest = await client.manifest(name, name.target)
        value = manifests.document(data, "the manifest")
        if manifests.is_index(value, media_type):
            chosen = manifests.for_this_platform(value)
            data, _, _ = await client.manifest(name, chosen.digest)
            value = manifests.document(data, "the manifest")
        return await self._fetch(name, client, manifests.manifest(value), digest, progress)

    async def _fetch(
        self, name: ImageName, client: RegistryClient, manifest: Manifest, digest: str, progress: Progress
    ) -> ImageRecord:
        """Fetch the configuration and the layers that are not here, and unpack these as they can be."""
        config_bytes = await self._config(name, client, manifest.config)
        config = manifests.image_config(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            raise ImageError(
                f"{name.familiar} is broken: {len(manifest.layers)} layers, "
                f"but {len(config.diff_ids)} in its configuration"
            )
        chain = digests.chain_ids(config.diff_ids)
        missing = {
            number: layer
            for number, layer in enumerate(manifest.layers)
            if not self._store.layers.has(chain[number])
        }
        report = _reporter(name, sum(layer.size for layer in missing.values()), progress)
        gate = asyncio.Semaphore(self._parallel)

        async def fetch(layer: Descriptor) -> Path:
            target = self._store.content.partial(layer.digest)
            async with gate, self._store.writers.of(layer.digest):
                await download(client, name, layer, target, received=report)
            return target

        try:
            async with asyncio.TaskGroup() as group:
                fetches = {number: group.create_task(fetch(layer)) for number, layer in missing.items()}
                for number in sorted(fetches):
                    blob = await fetches[number]
                    await self._store.layers.unpack(blob, chain[: number + 1], config.diff_ids[number])
        except ExceptionGroup as failed:  # not `except*`: before Python 3.11.4 it wraps what is raised in it
            raise _first(failed) from None
        for layer in missing.values():
            self._store.content.partial(layer.digest).unlink(missing_ok=True)
        return self._store.add(
            config_bytes,
            references=() if name.digest else (name.full,),
            repo_digests=(name.with_digest(digest),),
        )

    async def _config(self, name: ImageName, client: RegistryClient, config: Descriptor) -> bytes:
        if config.size > manifests.MAX_DOCUMENT:
            raise ImageError(f"the configuration of {name.familiar} has {config.size} bytes, too many")
        if self._store.content.has(config.digest):
            return self._store.content.read(config.digest)
        target = self._store.content.partial(config.digest)
        async with self._store.writers.of(config.digest):
            await download(client, name, config, target, received=lambda _: None)
            data = target.read_bytes()
            target.unlink()
        return data


def _first(failed: ExceptionGroup) -> Exception:
    """One of several layers' errors: they mostly say the same. Another kind of error is shown whole."""
    others = [error for error in failed.exceptions if not isinstance(error, ImageError)]
    return failed if others else failed.exceptions[0]


def _reporter(name: ImageName, total: int, progress: Progress) -> Callable[[int], None]:
    """Tells the progress, each figure once."""
    done = 0
    last = ""

    def received(count: int) -> None:
        nonlocal done, last
        done += count
        text = f"pulling {name.familiar}: {human_size(done)}/{human_size(total)}"
        if text != last:
            last = text
            progress(text)

    return received


def _silent(_: str) -> None:
    return
