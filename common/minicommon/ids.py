"""Random identifiers, as Swarm makes them."""

from __future__ import annotations

import secrets

from minicommon import base36

ID_LENGTH = 25
"""Base-36 digits of an object id (swarmkit `identity/randomid.go`)."""

_ID_BITS = 128
"""36^25 is a little more than 2^129; 128 random bits always fit."""


def new_id() -> str:
    """A new object id: 25 characters of base 36."""
    return base36.encode(secrets.randbits(_ID_BITS), ID_LENGTH)


def is_id(text: str) -> bool:
    """Whether `text` has the form of an object id."""
    return len(text) == ID_LENGTH and all(char in base36.ALPHABET for char in text)
