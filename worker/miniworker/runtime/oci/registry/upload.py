"""Giving a registry one blob, or a manifest: in one piece, and not at all if it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import aiohttp

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.registry.client import RegistryClient, check_response


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    size: int
    file: Path


async def upload(client: RegistryClient, name: ImageName, blob: Blob) -> bool:
    """False: it was there. Raises ImageError."""
    async with client.request("HEAD", name, f"blobs/{blob.digest}", push=True) as response:
        if response.status == 200:
            return False
        if response.status != 404:
            await check_response(response, name, action="push")
    async with client.request("POST", name, "blobs/uploads/", push=True) as response:
        await check_response(response, name, action="push")
        where = response.headers.get("Location", "")
    if not where:
        raise ImageError(f"{name.registry} does not say where to put a blob of {name.familiar}")
    path = f"{where}{'&' if '?' in where else '?'}digest={blob.digest}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
    try:
        with blob.file.open("rb") as file:
            async with client.request("PUT", name, path, headers=headers, push=True, body=file) as response:
                await check_response(response, name, action="push")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ImageError(f"upload of {blob.digest} to {name.registry} broke off: {error}") from error
    return True


async def upload_manifest(client: RegistryClient, name: ImageName, data: bytes, media_type: str) -> None:
    """Raises ImageError."""
    headers = {"Content-Type": media_type}
    path = f"manifests/{name.tag}"
    async with client.request("PUT", name, path, headers=headers, push=True, body=data) as response:
        await check_response(response, name, action="push")
