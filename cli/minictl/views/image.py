"""Images in a list."""

from __future__ import annotations

from minicommon import units

from minictl.output.listing import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.node_pb2 import Image

_HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}

LAYOUT = Layout(_HEADINGS, ("Repository", "Tag", "ID", "CreatedSince", "Size"))
DIGESTS_LAYOUT = Layout(_HEADINGS, ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"))

_NONE = "<none>"
_SHORT_ID = 12
_SIZE_DIGITS = 3


def rows(images: Iterable[Image], *, now_ns: int, truncate: bool) -> list[dict[str, Any]]:
    """One row per name of an image, the newest image first; an image without a name has one row, too."""
    from minictl.views.common import familiar_image, local_time

    result = []
    for image in sorted(images, key=lambda image: -image.created_at_ns):
        digests = dict(split_digest(familiar_digest(digest)) for digest in image.digests)
        pairs = [split_reference(familiar_image(reference)) for reference in image.references]
        if not pairs:
            pairs = [(name, _NONE) for name in digests] or [(_NONE, _NONE)]
        for repository, tag in pairs:
            result.append(
                {
                    "CreatedAt": local_time(image.created_at_ns).replace(" utc", " UTC"),
                    "CreatedSince": units.human_duration(now_ns - image.created_at_ns) + " ago",
                    "Digest": digests.get(repository, _NONE),
                    "ID": short_id(image.id) if truncate else full_id(image.id),
                    "Repository": repository,
                    "Size": units.human_size(image.size_bytes, digits=_SIZE_DIGITS),
                    "Tag": tag,
                }
            )
    return result


def short_id(text: str) -> str:
    return text.removeprefix("sha256:")[:_SHORT_ID]


def full_id(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag."""
    head, slash, tail = reference.rpartition("/")
    name, colon, tag = tail.partition(":")
    return f"{head}{slash}{name}", tag if colon else _NONE


def familiar_digest(digest: str) -> str:
    from minictl.views.common import familiar_image

    name, at, value = digest.partition("@")
    return f"{familiar_image(name)}{at}{value}"


def split_digest(digest: str) -> tuple[str, str]:
    name, _, value = digest.partition("@")
    return name, value
