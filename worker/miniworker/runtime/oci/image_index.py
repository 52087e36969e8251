"""Which names mean which image: one small JSON file, replaced whole."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniworker.runtime.oci import digest as digests


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image that is wholly present: its configuration as a blob, its layers unpacked."""

    id: str
    """Digest of its configuration."""
    diff_ids: tuple[str, ...]
    created_at_ns: int
    size_bytes: int
    references: tuple[str, ...] = ()
    """In full: docker.io/library/whoami:1."""
    repo_digests: tuple[str, ...] = ()
    """In full: docker.io/library/whoami@sha256:... of the manifest or index it was pulled by."""

    @property
    def chain(self) -> tuple[str, ...]:
        return digests.chain_ids(self.diff_ids)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.references, *self.repo_digests)


class ImageIndex:
    """The records by id. A name belongs to one image at a time; giving it to another takes it from the first."""

    def __init__(self, root: Path) -> None:
        self._path = root / "images.json"
        self._records: dict[str, ImageRecord] = {}
        if self._path.exists():
            for raw in json.loads(self._path.read_text()):
                record = _record(raw)
                self._records[record.id] = record

    def all(self) -> tuple[ImageRecord, ...]:
        """Newest first."""
        return tuple(sorted(self._records.values(), key=lambda record: (-record.created_at_ns, record.id)))

    def get(self, image_id: str) -> ImageRecord | None:
        return self._records.get(image_id)

    def by_name(self, name: str) -> ImageRecord | None:
        """The image with this full reference or repository digest."""
        return next((record for record in self._records.values() if name in record.names), None)

    def by_id_prefix(self, text: str) -> tuple[ImageRecord, ...]:
        """Images whose id begins with these hexadecimal digits, with or without `sha256:`."""
        prefix = text.removeprefix("sha256:")
        if not prefix or any(char not in "0123456789abcdef" for char in prefix):
            return ()
        return tuple(record for record in self.all() if digests.hex_of(record.id).startswith(prefix))

    def put(self, record: ImageRecord) -> ImageRecord:
        """Add the image, or its new names to what is there; the record with all its names."""
        old = self._records.get(record.id)
        merged = dataclasses.replace(
            record,
            references=_union(old.references if old else (), record.references),
            repo_digests=_union(old.repo_digests if old else (), record.repo_digests),
        )
        for other in self._records.values():
            if other.id != record.id:
                self._records[other.id] = _without(other, lambda name: name in record.references)
        self._records[record.id] = merged
        self._save()
        return merged

    def add_digest(self, image_id: str, repo_digest: str) -> None:
        """The image, if it is still here, is also known by this digest of a repository."""
        if (record := self._records.get(image_id)) is not None:
            self.put(dataclasses.replace(record, repo_digests=_union(record.repo_digests, (repo_digest,))))

    def drop_names(self, image_id: str, names: tuple[str, ...]) -> ImageRecord:
        """The record without these names."""
        self._records[image_id] = _without(self._records[image_id], lambda name: name in names)
        self._save()
        return self._records[image_id]

    def delete(self, image_id: str) -> None:
        del self._records[image_id]
        self._save()

    def _save(self) -> None:
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump([dataclasses.asdict(record) for record in self._records.values()], file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _record(raw: dict[str, Any]) -> ImageRecord:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    return ImageRecord(**fields)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return (*first, *(name for name in second if name not in first))


def _without(record: ImageRecord, drop: Callable[[str], bool]) -> ImageRecord:
    return dataclasses.replace(
        record,
        references=tuple(name for name in record.references if not drop(name)),
        repo_digests=tuple(name for name in record.repo_digests if not drop(name)),
    )
