"""Sealed values: what etcd may hold of a secret.

Each value is encrypted with AES-256-GCM under a key of its own, and that key under the cluster key, which is never in
etcd. So the cluster key can change by rewrapping keys, and no two values share one. Both ciphertexts authenticate the
cluster and the purpose, for example `secret/<id>/<version>`: a sealed value that is copied to another place does not
open there.

The cluster key changes while the cluster runs: an envelope knows one or two, seals with the present one and opens with
either; `rewrap` brings a sealed value under the present one without looking at the value.

Layout: magic (2 bytes), format (1), id of the cluster key (4), length of the purpose (2), the purpose, then the wrapped
key and the value, each as nonce (12), ciphertext and tag (16). The purpose is there for `rewrap`, which knows no other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from minicommon.errors import FailedPreconditionError

KEY_BYTES: Final = 32
"""AES-256."""

_MAGIC: Final = b"ME"
_FORMAT: Final = b"\x02"
_HEADER: Final = _MAGIC + _FORMAT
_NONCE_BYTES: Final = 12
"""What GCM is made for (NIST SP 800-38D, 5.2.1.1). Random: a data key is used once, the cluster key far below 2^32
times."""
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES

_FIXED_BYTES: Final = len(_HEADER) + 4 + 2

OVERHEAD_BYTES: Final = _FIXED_BYTES + _WRAPPED_BYTES + _NONCE_BYTES + _TAG_BYTES
"""How much longer a sealed value is, besides the purpose."""


@dataclass(frozen=True, slots=True)
class _Parts:
    key_id: int
    purpose: str
    wrapped: bytes
    value: bytes


def sealed_key_id(data: bytes) -> int | None:
    """The id of the cluster key that these bytes are sealed with; None: they are not a sealed value."""
    if not data.startswith(_HEADER) or len(data) < OVERHEAD_BYTES:
        return None
    return int.from_bytes(data[len(_HEADER) : len(_HEADER) + 4], "big")


class SealError(FailedPreconditionError):
    """A sealed value does not open: it was altered, belongs elsewhere, or another cluster key sealed it."""


class Envelope:
    """Seals and opens with the cluster's keys. Raises ValueError for a key that is not 32 bytes."""

    def __init__(self, cluster_key: bytes, cluster_id: str, *, key_id: int = 0) -> None:
        self._cluster_id = cluster_id
        self._keys: Mapping[int, AESGCM] = {}
        self.use({key_id: cluster_key}, key_id)

    @property
    def key_id(self) -> int:
        """Of the key that seals now."""
        return self._present

    def use(self, keys: Mapping[int, bytes], present: int) -> None:
        """Know these keys from now on, and seal with the present one."""
        for key in keys.values():
            if len(key) != KEY_BYTES:
                raise ValueError(f"the cluster key must have {KEY_BYTES} bytes, this one has {len(key)}")
        if present not in keys:
            raise ValueError(f"the present cluster key, {present}, is not among those given")
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._present = present

    def seal(self, purpose: str, plaintext: bytes) -> bytes:
        """`plaintext`, to be opened only in this cluster and for this purpose."""
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        value = _encrypt(AESGCM(data_key), plaintext, self._bound("value", purpose))
        return self._wrapped(purpose, data_key) + value

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """What was sealed for `purpose`. Raises SealError, which names the purpose and never the content."""
        parts = _parts(purpose, sealed)
        try:
            if parts.purpose != purpose:
                raise InvalidTag
            data_key = self._data_key(parts)
            return _decrypt(AESGCM(data_key), parts.value, self._bound("value", purpose))
        except InvalidTag as error:
            raise _does_not_open(purpose) from error

    def rewrap(self, sealed: bytes) -> bytes:
        """The same value under the present cluster key. Raises SealError."""
        parts = _parts("sealed value", sealed)
        if parts.key_id == self._present:
            return sealed
        try:
            data_key = self._data_key(parts)
        except InvalidTag as error:
            raise _does_not_open(parts.purpose) from error
        return self._wrapped(parts.purpose, data_key) + parts.value

    def _wrapped(self, purpose: str, data_key: bytes) -> bytes:
        name = purpose.encode()
        head = _HEADER + self._present.to_bytes(4, "big") + len(name).to_bytes(2, "big") + name
        return head + _encrypt(self._keys[self._present], data_key, self._bound("key", purpose))

    def _data_key(self, parts: _Parts) -> bytes:
        wrapping = self._keys.get(parts.key_id)
        if wrapping is None:
            raise InvalidTag
        return _decrypt(wrapping, parts.wrapped, self._bound("key", parts.purpose))

    def _bound(self, part: str, purpose: str) -> bytes:
        """The associated data: each piece with its length, so that no two lists of pieces read the same."""
        pieces = (_HEADER, part.encode(), self._cluster_id.encode(), purpose.encode())
        return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


def _parts(purpose: str, sealed: bytes) -> _Parts:
    if not sealed.startswith(_MAGIC) or len(sealed) < OVERHEAD_BYTES:
        raise SealError(f"{purpose}: not a sealed value")
    if sealed[len(_MAGIC) : len(_HEADER)] != _FORMAT:
        raise SealError(f"{purpose}: sealed in format {sealed[len(_MAGIC)]}, this version opens {_FORMAT[0]}")
    key_id = int.from_bytes(sealed[len(_HEADER) : len(_HEADER) + 4], "big")
    size = int.from_bytes(sealed[_FIXED_BYTES - 2 : _FIXED_BYTES], "big")
    name, body = sealed[_FIXED_BYTES : _FIXED_BYTES + size], sealed[_FIXED_BYTES + size :]
    return _Parts(key_id, name.decode(errors="replace"), body[:_WRAPPED_BYTES], body[_WRAPPED_BYTES:])


def _does_not_open(purpose: str) -> SealError:
    return SealError(
        f"{purpose}: the sealed value does not open: it was altered or moved, or another cluster key sealed it"
    )


def _encrypt(cipher: AESGCM, plaintext: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, bound)


def _decrypt(cipher: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
        raise InvalidTag
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)
