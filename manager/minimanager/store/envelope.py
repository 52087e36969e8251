"""Sealed values: what etcd may hold of a secret.

Each value is encrypted with AES-256-GCM under a key of its own, and that key under the cluster key, which is never in
etcd. So the cluster key can change by rewrapping keys, and no two values share one. Both ciphertexts authenticate the
cluster and the purpose, for example `secret/<id>/<version>`: a sealed value that is copied to another place does not
open there.

Layout: magic (2 bytes), format (1), then the wrapped key and the value, each as nonce (12), ciphertext and tag (16).
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from minicommon.errors import FailedPreconditionError

KEY_BYTES: Final = 32
"""AES-256."""

_MAGIC: Final = b"ME"
_FORMAT: Final = b"\x01"
_HEADER: Final = _MAGIC + _FORMAT
_NONCE_BYTES: Final = 12
"""What GCM is made for (NIST SP 800-38D, 5.2.1.1). Random: a data key is used once, the cluster key far below 2^32
times."""
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES

OVERHEAD_BYTES: Final = len(_HEADER) + _WRAPPED_BYTES + _NONCE_BYTES + _TAG_BYTES
"""How much longer a sealed value is."""


class SealError(FailedPreconditionError):
    """A sealed value does not open: it was altered, belongs elsewhere, or another cluster key sealed it."""


class Envelope:
    """Seals and opens with one cluster key. Raises ValueError for a key that is not 32 bytes."""

    def __init__(self, cluster_key: bytes, cluster_id: str) -> None:
        if len(cluster_key) != KEY_BYTES:
            raise ValueError(f"the cluster key must have {KEY_BYTES} bytes, this one has {len(cluster_key)}")
        self._wrapping = AESGCM(cluster_key)
        self._cluster_id = cluster_id

    def seal(self, purpose: str, plaintext: bytes) -> bytes:
        """`plaintext`, to be opened only in this cluster and for this purpose."""
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        wrapped = _encrypt(self._wrapping, data_key, self._bound("key", purpose))
        return _HEADER + wrapped + _encrypt(AESGCM(data_key), plaintext, self._bound("value", purpose))

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """What was sealed for `purpose`. Raises SealError, which names the purpose and never the content."""
        if not sealed.startswith(_MAGIC) or len(sealed) < OVERHEAD_BYTES:
            raise SealError(f"{purpose}: not a sealed value")
        if sealed[len(_MAGIC) : len(_HEADER)] != _FORMAT:
            raise SealError(
                f"{purpose}: sealed in format {sealed[len(_MAGIC)]}, this version opens {_FORMAT[0]}"
            )
        body = sealed[len(_HEADER) :]
        try:
            data_key = _decrypt(self._wrapping, body[:_WRAPPED_BYTES], self._bound("key", purpose))
            return _decrypt(AESGCM(data_key), body[_WRAPPED_BYTES:], self._bound("value", purpose))
        except InvalidTag as error:
            raise SealError(
                f"{purpose}: the sealed value does not open: it was altered or moved, or another cluster key sealed it"
            ) from error

    def _bound(self, part: str, purpose: str) -> bytes:
        """The associated data: each piece with its length, so that no two lists of pieces read the same."""
        pieces = (_HEADER, part.encode(), self._cluster_id.encode(), purpose.encode())
        return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


def _encrypt(cipher: AESGCM, plaintext: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, bound)


def _decrypt(cipher: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)
