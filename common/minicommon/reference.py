"""Names of images: `whoami:1` is short for `docker.io/library/whoami:1`.

The grammar and the messages are those of distribution/reference, which Docker uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from minicommon.errors import InvalidArgumentError

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME_LENGTH = 255
"""Characters of a repository's path."""

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_INVALID = "invalid reference format"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<domain>{_HOST}(?::[0-9]+)?)/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")

_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Hexadecimal digits, by algorithm."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalized name of an image; `tag` and `digest` are empty when not given."""

    domain: str
    """The registry, with its port if it has one: docker.io, localhost:5000."""
    path: str
    """library/whoami"""
    tag: str = ""
    digest: str = ""
    """sha256:..."""

    @property
    def name(self) -> str:
        """Without tag and digest: docker.io/library/whoami."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as users write it: whoami."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        official = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in official else official

    @property
    def familiar(self) -> str:
        """With tag and digest, as users write it: whoami:1."""
        return self.familiar_name + self._suffix

    @property
    def tagged(self) -> Reference:
        """With the tag `latest` when there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """The image that `text` names, normalized. Raises InvalidArgumentError."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgumentError(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, rest = _split_domain(text)
    path = rest.partition(":")[0]
    if path != path.lower():
        raise InvalidArgumentError(f"{_INVALID}: repository name ({path}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None:
        raise InvalidArgumentError(_INVALID)
    if len(match["path"]) > MAX_NAME_LENGTH:
        raise InvalidArgumentError(f"repository name must not be more than {MAX_NAME_LENGTH} characters")
    digest = match["digest"] or ""
    if digest:
        check_digest(digest)
    return Reference(match["domain"], match["path"], match["tag"] or "", digest)


def check_digest(digest: str) -> None:
    """Raises InvalidArgumentError unless `digest` is `sha256:`, `sha384:` or `sha512:` and its lower-case digits."""
    algorithm, separator, encoded = digest.partition(":")
    if not separator:
        raise InvalidArgumentError("invalid checksum digest format")
    if algorithm not in _DIGEST_LENGTHS:
        raise InvalidArgumentError("unsupported digest algorithm")
    if len(encoded) != _DIGEST_LENGTHS[algorithm]:
        raise InvalidArgumentError("invalid checksum digest length")
    if not re.fullmatch(r"[0-9a-f]+", encoded):
        raise InvalidArgumentError("invalid checksum digest format")


def _split_domain(text: str) -> tuple[str, str]:
    """The registry and the rest: what is before the first slash is a registry only if it looks like a host."""
    first, slash, rest = text.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_host else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
