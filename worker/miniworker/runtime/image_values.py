"""What comes of an image on its way between this node, its registries and archives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PulledImage:
    reference: str
    """In full: docker.io/library/whoami:1."""
    digest: str
    """sha256:... of the manifest or index that the registry has under it."""
    fresh: bool
    """It was not here before, or another was under its name."""


@dataclass(frozen=True, slots=True)
class PushedImage:
    digest: str
    """sha256:... of the manifest, which the registry now has under the name."""
    size_bytes: int
    """Of the manifest."""


@dataclass(frozen=True, slots=True)
class PrunedImages:
    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int
