"""Images of the store as an archive like those of `docker save`. Blocks."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import names
from miniworker.runtime.oci.image_index import ImageRecord
from miniworker.runtime.oci.image_store import ImageStore


def write_archive(store: ImageStore, images: Sequence[tuple[ImageRecord, str | None]], target: Path) -> None:
    """The images, each under the full name that it was asked for by; several names of one image are one entry.

    Raises ImageError.
    """
    entries: dict[str, dict[str, Any]] = {}
    layer = target.with_name(f"{target.name}.layer")
    try:
        with tarfile.open(target, "w") as archive:
            for record, name in images:
                entry = entries.get(record.id)
                if entry is None:
                    entry = entries[record.id] = _add(archive, store, record, layer)
                if name is not None and "@" not in name:
                    entry["RepoTags"] = [*(entry["RepoTags"] or ()), names.shorten(name)]
            _write(archive, "manifest.json", json.dumps(list(entries.values())).encode())
    finally:
        layer.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, store: ImageStore, record: ImageRecord, layer: Path) -> dict[str, Any]:
    """Its configuration and the layers that are not in the archive yet; its entry of manifest.json."""
    paths = []
    present = set(archive.getnames())
    for chain_id, diff_id in zip(record.chain, record.diff_ids, strict=True):
        path = f"{digests.hex_of(diff_id)}/layer.tar"
        paths.append(path)
        if path not in present:
            _copy(store.layers.archive(chain_id, diff_id), layer)
            archive.add(layer, path)
            present.add(path)
    config = f"{digests.hex_of(record.id)}.json"
    _write(archive, config, store.content.read(record.id))
    return {"Config": config, "RepoTags": None, "Layers": paths}


def _copy(data: Iterable[bytes], target: Path) -> None:
    with target.open("wb") as file:
        file.writelines(data)


def _write(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
