"""Fetching one blob into a file: verified, and resumed where it broke off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci.digest import CHUNK, FileHash
from miniworker.runtime.oci.manifest import Descriptor
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.registry.client import RegistryClient, check_response

_FRUITLESS_TRIES = 3
"""Broken transfers in a row that brought no byte before we give up; the task's restart policy goes on from there."""


async def download(
    client: RegistryClient,
    name: ImageName,
    blob: Descriptor,
    target: Path,
    *,
    received: Callable[[int], None],
) -> None:
    """Complete `target` to the whole blob. `received` is told bytes as they come.

    What is in `target` already is kept, also from an earlier process. Raises ImageError: digest or size mismatch,
    unauthorized, blob unknown, or a transfer that breaks without progress.
    """
    hashed = FileHash()
    await asyncio.to_thread(hashed.update_from, target)
    received(hashed.size)
    fruitless = 0
    while hashed.size < blob.size:
        before = hashed.size
        try:
            await _transfer(client, name, blob, target, hashed, received)
        except (aiohttp.ClientError, TimeoutError) as error:
            fruitless = 0 if hashed.size > before else fruitless + 1
            if fruitless == _FRUITLESS_TRIES:
                raise ImageError(
                    f"download of {blob.digest} from {name.registry} keeps breaking: {error}"
                ) from error
        else:
            break
    if hashed.digest != blob.digest or hashed.size != blob.size:
        os.unlink(target)
        raise ImageError(
            f"digest mismatch for {name.familiar}: expected {blob.digest} ({blob.size} bytes), "
            f"got {hashed.digest} ({hashed.size} bytes)"
        )


async def _transfer(
    client: RegistryClient,
    name: ImageName,
    blob: Descriptor,
    target: Path,
    hashed: FileHash,
    received: Callable[[int], None],
) -> None:
    """One try, from where the file ends; a registry that ignores Range makes us skip what we have."""
    headers = {"Range": f"bytes={hashed.size}-"} if hashed.size else {}
    async with client.request("GET", name, f"blobs/{blob.digest}", headers=headers) as response:
        await check_response(response, name)
        skip = hashed.size if response.status == 200 else 0
        with target.open("ab") as file:
            async for data in response.content.iter_chunked(CHUNK):
                fresh = data[skip:] if skip < len(data) else b""
                skip = max(0, skip - len(data))
                if fresh:
                    file.write(fresh)
                    file.flush()
                    hashed.update(fresh)
                    received(len(fresh))
                if hashed.size > blob.size:
                    return  # more than announced: the digest check refuses it
    if hashed.size < blob.size:
        raise aiohttp.ClientPayloadError(f"ended after {hashed.size} of {blob.size} bytes")
