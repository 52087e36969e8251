"""What a node signs when it has received a secret, so that both ends say the same."""

from __future__ import annotations

from typing import Final

_PREFIX: Final = b"mini receipt 1\0"
"""A signature made for this is good for nothing else."""


def receipt_text(record: bytes) -> bytes:
    """The bytes to sign for a delivery; `record` is its record in the ledger, as it was written."""
    return _PREFIX + record
