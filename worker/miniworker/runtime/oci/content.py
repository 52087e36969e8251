"""The content store: blobs by digest, verified while they are written, complete or absent.

Small blobs (configurations) are kept; layers pass through `ingest` and go once they are unpacked. A layer that was
only partly fetched stays there, so that the next try asks the registry for the rest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import digest as digests


class ContentStore:
    """Files under `root`. Methods block: call them in a thread."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        for directory in (self._blobs, self._ingest):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: str) -> Path:
        return self._blobs / digests.hex_of(digest)

    def partial(self, digest: str) -> Path:
        """Where a download of this blob grows."""
        return self._ingest / digests.hex_of(digest)

    def temporary(self) -> Path:
        """A new empty file for content whose digest is not known yet; the caller removes it."""
        descriptor, name = tempfile.mkstemp(dir=self._ingest, prefix=".load-")
        os.close(descriptor)
        return Path(name)

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """The blob's bytes. Raises ImageError when it is missing or not what its name says."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageError(
                f"blob {digest} is missing from the image store; pull or load the image again"
            ) from None
        if digests.of_bytes(data) != digest:
            raise ImageError(f"blob {digest} is damaged on disk; remove the image and pull or load it again")
        return data

    def write(self, digest: str, data: bytes) -> None:
        """Store `data`. Raises ImageError when its digest is another."""
        actual = digests.of_bytes(data)
        if actual != digest:
            raise ImageError(f"digest mismatch: expected {digest}, got {actual}")
        target = self.path(digest)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def keep_only(self, wanted: Iterable[str]) -> None:
        """Remove every blob that is not in `wanted`."""
        names = {digests.hex_of(digest) for digest in wanted}
        for path in self._blobs.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def forget_temporaries(self) -> None:
        """Remove what an interrupted load left behind; partial downloads stay, they can go on."""
        for path in self._ingest.glob(".load-*"):
            path.unlink(missing_ok=True)
