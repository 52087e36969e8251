"""Digests: `sha256:<64 hex>`, the only names of content that prove what they name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

_FORM = re.compile(r"sha256:[0-9a-f]{64}")

CHUNK = 1 << 20
"""Bytes read or written in one step."""


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 digest in its canonical form; others are not used by any registry we know."""
    return _FORM.fullmatch(text) is not None


def of_bytes(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hex_of(digest: str) -> str:
    """The 64 characters after the colon. Raises ValueError when it is no SHA-256 digest.

    Digests come from outside and become file names: this is the gate that keeps paths out.
    """
    if not is_digest(digest):
        raise ValueError(f"not a sha256 digest: {digest!r}")
    return digest.partition(":")[2]


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The chain id of every layer, lowest first (OCI image-spec, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        hex_of(diff_id)
        chain.append(of_bytes(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


class FileHash:
    """A running SHA-256, which can take up a file that is already there."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    def update_from(self, path: Path) -> None:
        """Take up what the file holds; one that is missing is made, empty."""
        with path.open("a+b") as file:
            file.seek(0)
            while data := file.read(CHUNK):
                self.update(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def of_file(path: Path) -> str:
    """Of what the file holds. Blocks."""
    found = FileHash()
    found.update_from(path)
    return found.digest
