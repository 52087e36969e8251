"""Names of images as the index and the registries want them: `whoami:1` in full is `docker.io/library/whoami:1`."""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.errors import InvalidArgumentError
from minicommon.reference import DEFAULT_TAG, Reference, parse_reference

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci.digest import is_digest


@dataclass(frozen=True, slots=True)
class ImageName:
    """A normalized reference that names one image: by its digest if it has one, else by its tag."""

    registry: str
    repository: str
    tag: str
    """Empty only when there is a digest."""
    digest: str = ""

    @property
    def full(self) -> str:
        """registry/repository:tag, or @digest where there is one: what the index knows it by."""
        return (
            self.with_digest(self.digest) if self.digest else f"{self.registry}/{self.repository}:{self.tag}"
        )

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def familiar(self) -> str:
        """As users write it: whoami:1."""
        return Reference(self.registry, self.repository, self.tag, self.digest).familiar

    def with_digest(self, digest: str) -> str:
        """The full name of this repository's content with that digest."""
        return f"{self.registry}/{self.repository}@{digest}"


def parse(text: str) -> ImageName:
    """Normalize what a user wrote. Raises ImageError, in Docker's words."""
    try:
        given = parse_reference(text)
    except InvalidArgumentError as error:
        raise ImageError(f"{error}: {text!r}") from None
    if given.digest and not is_digest(given.digest):
        raise ImageError(f"unsupported digest in {text!r}: only sha256 is")
    tag = given.tag if given.tag or given.digest else DEFAULT_TAG
    return ImageName(given.domain, given.path, tag, given.digest)


def shorten(full: str) -> str:
    """A full name as users write it."""
    return parse_reference(full).familiar
