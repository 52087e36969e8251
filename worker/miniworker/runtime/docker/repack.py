"""Any archive of images as `docker save` writes one. Blocks."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import compression, names
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import manifest as manifests
from miniworker.runtime.oci.archive import Archive, ArchivedImage


def repack(source: Path, target: Path) -> tuple[str, ...]:
    """What to call each image when telling the user. Raises ImageError. Uses files beside `target`."""
    plain = target.with_name("plain")
    _decompress(source, plain, "invalid archive")
    archive = Archive(plain)
    try:
        images = archive.images()
        if not images:
            raise ImageError("invalid archive: there is no image in it")
        with tarfile.open(target, "w") as out:
            entries = [_add(out, archive, image, target) for image in images]
            _write(out, "manifest.json", json.dumps(entries).encode())
    finally:
        archive.close()
    return tuple(
        name
        for image, entry in zip(images, entries, strict=True)
        for name in entry["RepoTags"] or (digests.of_bytes(image.config),)
    )


def _add(out: tarfile.TarFile, archive: Archive, image: ArchivedImage, target: Path) -> dict[str, Any]:
    """One image's parts; its entry of manifest.json."""
    diff_ids = manifests.image_config(image.config).diff_ids
    if len(diff_ids) != len(image.layers):
        raise ImageError(
            f"invalid archive: {len(image.layers)} layers, but {len(diff_ids)} in the configuration"
        )
    layers = []
    for diff_id, path in zip(diff_ids, image.layers, strict=True):
        name = f"{digests.hex_of(diff_id)}/layer.tar"
        layers.append(name)
        if name not in out.getnames():
            blob, layer = target.with_name("blob"), target.with_name("layer")
            archive.extract(path, blob)
            _decompress(blob, layer, f"invalid archive: {path}")
            out.add(layer, name)
    config_name = f"{hashlib.sha256(image.config).hexdigest()}.json"
    _write(out, config_name, image.config)
    tags = [names.parse(reference).familiar for reference in image.references]
    return {"Config": config_name, "RepoTags": tags or None, "Layers": layers}


def _write(out: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    out.addfile(entry, io.BytesIO(data))


def _decompress(source: Path, target: Path, what: str) -> None:
    try:
        with compression.open_plain(source) as plain, target.open("wb") as file:
            shutil.copyfileobj(plain, file, digests.CHUNK)
    except compression.StreamError as error:
        raise ImageError(f"{what}: {error}") from error
