"""Join tokens: `SWMTKN-1-<digest>-<secret>`, as Swarm writes them.

The digest is SHA-256 over the PEM text of the root bundle in 50 base-36 digits, the secret 16 random bytes in 25.
Widths are exact. A second version, `SWMTKN-2-<0|1>-<digest>-<secret>` (the number tells of FIPS mode), is known but not
supported. No message ever has a token in it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from minicommon import base36
from minicommon.errors import InvalidArgumentError

PREFIX: Final = "SWMTKN"
DIGEST_WIDTH: Final = 50
SECRET_WIDTH: Final = 25
SECRET_BYTES: Final = 16
DIGEST_BYTES: Final = 32

FORM: Final = f"{PREFIX}-1-<{DIGEST_WIDTH} base-36 digits>-<{SECRET_WIDTH} base-36 digits>"


@dataclass(frozen=True, slots=True)
class Token:
    """A join token's two parts, each in base 36."""

    digest: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the user sees and types."""
        return f"{PREFIX}-1-{self.digest}-{self.secret}"

    @property
    def digest_hex(self) -> str:
        """The digest as `sha256sum` prints it, for messages."""
        return f"{base36.decode(self.digest):0{DIGEST_BYTES * 2}x}"

    def is_of(self, root_ca_pem: bytes) -> bool:
        """Whether the token belongs to the cluster with this root bundle."""
        return hmac.compare_digest(self.digest, digest_of(root_ca_pem))


def digest_of(root_ca_pem: bytes) -> str:
    """SHA-256 over the PEM text, in base 36."""
    return base36.encode(int.from_bytes(hashlib.sha256(root_ca_pem).digest(), "big"), DIGEST_WIDTH)


def new_token(root_ca_pem: bytes) -> Token:
    """A token with a new secret for the cluster with this root bundle."""
    secret = int.from_bytes(secrets.token_bytes(SECRET_BYTES), "big")
    return Token(digest_of(root_ca_pem), base36.encode(secret, SECRET_WIDTH))


def parse(text: str) -> Token:
    """The parts of a token. Raises InvalidArgumentError, saying which part is wrong."""
    match text.split("-"):
        case ["SWMTKN", "1", digest, secret]:
            _check("digest", digest, width=DIGEST_WIDTH, value_bytes=DIGEST_BYTES)
            _check("secret", secret, width=SECRET_WIDTH, value_bytes=SECRET_BYTES)
            return Token(digest, secret)
        case ["SWMTKN", "2", ("0" | "1"), _, _]:
            raise InvalidArgumentError(
                f"invalid join token: version 2 (of a cluster with FIPS mode) is not supported, only {FORM}"
            )
        case ["SWMTKN", version, *_] if version not in ("1", "2"):
            raise InvalidArgumentError(f"invalid join token: unknown version, must be {FORM}")
        case parts:
            raise InvalidArgumentError(
                f"invalid join token: must be {FORM}, got {len(text)} characters in {len(parts)} part(s)"
            )


def same(one: str, other: str) -> bool:
    """Whether two tokens are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def _check(part: str, text: str, *, width: int, value_bytes: int) -> None:
    if len(text) != width:
        raise InvalidArgumentError(
            f"invalid join token: its {part} must have {width} characters, got {len(text)}; is it cut off?"
        )
    try:
        value = base36.decode(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"invalid join token: its {part} must have only the digits 0-9 and a-z"
        ) from error
    if value >> (8 * value_bytes):
        raise InvalidArgumentError(f"invalid join token: its {part} is more than {value_bytes} bytes hold")
