"""Archives for `image load`: what `docker save` writes and OCI image layouts, read into values.

The archive lies in a plain file by then, so that its parts can be read in any order.
"""

from __future__ import annotations

import json
import posixpath
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import manifest as manifests
from miniworker.runtime.oci.digest import CHUNK, hex_of

_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    config: bytes
    layers: tuple[str, ...]
    """Paths in the archive, lowest first; each compressed or not."""
    references: tuple[str, ...]
    """As written in the archive; may be none."""


class Archive:
    """An open tar. Methods block. Raises ImageError for everything that is wrong with it."""

    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.open(path, mode="r:")  # noqa: SIM115  closed by close()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ImageError(f"invalid archive: {error}") from error
        try:
            self._members = {posixpath.normpath(member.name): member for member in self._tar.getmembers()}
        except (tarfile.TarError, EOFError, OSError) as error:
            self._tar.close()
            raise ImageError(f"invalid archive: {error}") from error

    def close(self) -> None:
        self._tar.close()

    def images(self) -> tuple[ArchivedImage, ...]:
        """What is in it: `manifest.json` (docker) or `index.json` (OCI). Newer `docker save` writes both."""
        if "manifest.json" in self._members:
            return self._docker()
        if "index.json" in self._members:
            index = manifests.document(self.read("index.json"), "index.json")
            return tuple(self._oci(entry) for entry in index.get("manifests") or ())
        raise ImageError("invalid archive: it has neither manifest.json (docker) nor index.json (OCI)")

    def read(self, name: str) -> bytes:
        """A small part, whole."""
        member = self._members.get(posixpath.normpath(name))
        if member is not None and member.size > manifests.MAX_DOCUMENT:
            raise ImageError(
                f"invalid archive: {name} has {member.size} bytes, at most {manifests.MAX_DOCUMENT}"
            )
        return self._open(name).read()

    def extract(self, name: str, target: Path) -> None:
        """Copy one part, a layer, to `target`."""
        with target.open("wb") as file:
            shutil.copyfileobj(self._open(name), file, CHUNK)

    def _open(self, name: str) -> IO[bytes]:
        member = self._members.get(posixpath.normpath(name))
        source = None
        if member is not None:
            try:
                source = self._tar.extractfile(
                    member
                )  # follows links inside the archive, as old ones have them
            except (KeyError, tarfile.TarError):
                source = None
        if source is None:
            raise ImageError(f"invalid archive: {name} is missing")
        return source

    def _docker(self) -> tuple[ArchivedImage, ...]:
        try:
            entries = json.loads(self.read("manifest.json"))
            return tuple(
                ArchivedImage(
                    config=self.read(entry["Config"]),
                    layers=tuple(entry["Layers"]),
                    references=tuple(entry.get("RepoTags") or ()),
                )
                for entry in cast(Sequence[Mapping[str, Any]], entries)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ImageError("invalid archive: manifest.json is not what `docker save` writes") from None

    def _oci(self, entry: Mapping[str, Any]) -> ArchivedImage:
        found = manifests.descriptor(entry, "an entry of index.json")
        value = manifests.document(self._blob(found.digest), "a manifest of the archive")
        if manifests.is_index(value, found.media_type):
            inner = manifests.for_this_platform(value)
            value = manifests.document(self._blob(inner.digest), "a manifest of the archive")
        image = manifests.manifest(value)
        return ArchivedImage(
            config=self._blob(image.config.digest),
            layers=tuple(_blob_path(layer.digest) for layer in image.layers),
            references=_references(found.annotations),
        )

    def _blob(self, digest: str) -> bytes:
        return self.read(_blob_path(digest))


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _references(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The image's name; a bare tag alone, which the layout also allows, names nothing."""
    name = annotations.get(_NAME) or annotations.get(_REF_NAME, "")
    return (name,) if ":" in name or "/" in name else ()
