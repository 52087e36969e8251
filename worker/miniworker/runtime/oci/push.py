"""Pushing: from an image of this node to its manifest in a registry.

Layers are compressed anew, in the same way every time, so that a registry which has one already says so by its digest.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miniworker.runtime.api import Login, Progress
from miniworker.runtime.image_values import PushedImage
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci.image_index import ImageRecord
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.registry.client import RegistryClient
from miniworker.runtime.oci.registry.upload import Blob, upload, upload_manifest

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
"""As the Docker Engine pushes: every registry takes these, and not every one OCI's."""

_LEVEL = 6
"""Of gzip, the Docker Engine's."""


class Pusher:
    """Pushes images of the store."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self._store = store
        self._client = client

    async def push(
        self, record: ImageRecord, name: ImageName, *, login: Login | None, progress: Progress
    ) -> PushedImage:
        """Layers, configuration, then the manifest, which makes the image whole there. Raises ImageError."""
        client = self._client.as_user(login)
        layers = [
            await self._layer(client, name, chain_id, diff_id, progress)
            for chain_id, diff_id in zip(record.chain, record.diff_ids, strict=True)
        ]
        config = self._store.content.path(record.id)
        blob = Blob(record.id, (await asyncio.to_thread(config.stat)).st_size, config)
        await upload(client, name, blob)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "config": _descriptor(_CONFIG_TYPE, blob),
                "layers": layers,
            }
        ).encode()
        await upload_manifest(client, name, manifest, _MANIFEST_TYPE)
        digest = digests.of_bytes(manifest)
        self._store.index.add_digest(record.id, name.with_digest(digest))
        return PushedImage(digest, len(manifest))

    async def _layer(
        self, client: RegistryClient, name: ImageName, chain_id: str, diff_id: str, progress: Progress
    ) -> dict[str, Any]:
        short = digests.hex_of(diff_id)[:12]
        progress(f"{short}: Preparing")
        file = self._store.content.temporary()
        try:
            archive = self._store.layers.archive(chain_id, diff_id)
            await asyncio.to_thread(_compress, archive, file)
            size = (await asyncio.to_thread(file.stat)).st_size
            blob = Blob(await asyncio.to_thread(digests.of_file, file), size, file)
            fresh = await upload(client, name, blob)
        finally:
            file.unlink(missing_ok=True)
        progress(f"{short}: {'Pushed' if fresh else 'Layer already exists'}")
        return _descriptor(_LAYER_TYPE, blob)


def _compress(archive: Iterator[bytes], target: Path) -> None:
    with target.open("wb") as file, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
        for data in archive:
            packed.write(data)


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "size": blob.size, "digest": blob.digest}
