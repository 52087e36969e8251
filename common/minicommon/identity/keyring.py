"""The keyring: what a manager's disk holds of the cluster's keys, and never in clear.

The file has the cluster keys, and with autolock the keys of etcd's certificates, encrypted together under a key of the
file's own; that key is there once for each holder who may open it: the node, by its certificate's key, or whoever
knows the unlock key. Every write makes a new file key, so an older copy of the file says nothing of a newer one.

Without autolock the node's key lies beside the file: who has the whole disk can open it. With autolock the disk alone
opens nothing of it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.identity import pem
from minicommon.identity.authority import load_key

KEY_BYTES: Final = 32
"""AES-256."""

UNLOCK_PREFIX: Final = "SWMKEY-1-"
"""swarmkit `manager/encryption/encryption.go`; then 32 bytes in standard base64 without padding."""

INVALID_KEY: Final = "invalid key"
"""Docker's words for an unlock key that does not fit."""

_NONCE_BYTES: Final = 12
_NODE: Final = "node"
_UNLOCK: Final = "unlock"
_FORMER: Final = "unlock-former"
_FORMAT: Final = 1
_BOUND: Final = b"mini keyring 1"


class KeyringError(FailedPreconditionError):
    """The keyring does not open: it is for other holders, or was altered."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """`cluster_keys` by id; `files` are private keys that are not on the disk by themselves while it is locked."""

    cluster_keys: Mapping[int, bytes] = field(repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def with_key(self, key_id: int, key: bytes) -> Keyring:
        return replace(self, cluster_keys={**self.cluster_keys, key_id: key})

    def only_key(self, key_id: int) -> Keyring:
        """Without all others. Raises KeyError when it has not got that one."""
        return replace(self, cluster_keys={key_id: self.cluster_keys[key_id]})


@dataclass(frozen=True, slots=True)
class Holder:
    """Who may open the file: `name` says which, `secret` (32 bytes) proves it."""

    name: str
    secret: bytes = field(repr=False)

    @property
    def is_unlock_key(self) -> bool:
        return self.name in (_UNLOCK, _FORMER)


def node_holder(key_pem: bytes) -> Holder:
    """The node, by the key of its certificate."""
    key = load_key(key_pem)
    number = key.private_numbers().private_value.to_bytes(KEY_BYTES, "big")
    secret = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"mini keyring: node").derive(number)
    name = hashlib.sha256(secret + b"name").hexdigest()[:16]
    return Holder(f"{_NODE}-{name}", secret)


def unlock_holder(key: bytes, *, former: bool = False) -> Holder:
    """Whoever knows the unlock key; to write: or the one before it."""
    secret = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"mini keyring: unlock").derive(key)
    return Holder(_FORMER if former else _UNLOCK, secret)


def new_unlock_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def unlock_text(key: bytes) -> str:
    """The unlock key as users keep it."""
    return UNLOCK_PREFIX + base64.b64encode(key).decode().rstrip("=")


def parse_unlock(text: str) -> bytes:
    """The key in the text. Raises InvalidArgumentError, without the text."""
    body = text.strip()
    if not body.startswith(UNLOCK_PREFIX):
        raise InvalidArgumentError(f"unlock key: must begin with {UNLOCK_PREFIX}")
    encoded = body.removeprefix(UNLOCK_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError as error:
        raise InvalidArgumentError(f"unlock key: must be {UNLOCK_PREFIX} and base64") from error
    if len(key) != KEY_BYTES:
        raise InvalidArgumentError(f"unlock key: must have {KEY_BYTES} bytes, got {len(key)}; is it cut off?")
    return key


class KeyringFile:
    """The keyring in one file. A file of 32 bytes is a cluster key in clear, as versions before this one wrote it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def locked(self) -> bool:
        """Whether only the unlock key opens it. Raises OSError."""
        data = self._path.read_bytes()
        return len(data) != KEY_BYTES and all(name in (_UNLOCK, _FORMER) for name in _parsed(data)["holders"])

    def open(self, holder: Holder) -> Keyring:
        """Raises KeyringError, and OSError."""
        data = self._path.read_bytes()
        if len(data) == KEY_BYTES:
            return Keyring({0: data})
        document = _parsed(data)
        if holder.name == _UNLOCK and _FORMER in document["holders"]:
            with contextlib.suppress(KeyringError):
                return _open(document, replace(holder, name=_FORMER))
        return _open(document, holder)

    def write(self, keyring: Keyring, holders: Sequence[Holder]) -> None:
        """Replace the file, durably, in one step."""
        pem.write(self._path, _sealed(keyring, holders))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Between reading and writing nobody else writes: the daemon and the manager both do."""
        descriptor = os.open(
            self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, pem.FILE_MODE
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def same_key(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _sealed(keyring: Keyring, holders: Sequence[Holder]) -> bytes:
    file_key = AESGCM.generate_key(KEY_BYTES * 8)
    plain = {
        "keys": {str(key_id): _text(key) for key_id, key in keyring.cluster_keys.items()},
        "files": {name: _text(content) for name, content in keyring.files.items()},
    }
    document = {
        "format": _FORMAT,
        "holders": {holder.name: _text(_encrypt(holder.secret, file_key, holder.name)) for holder in holders},
        "sealed": _text(_encrypt(file_key, json.dumps(plain).encode(), "content")),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _open(document: Mapping[str, Any], holder: Holder) -> Keyring:
    wrapped = document["holders"].get(holder.name)
    if wrapped is None:
        raise KeyringError(
            INVALID_KEY if holder.is_unlock_key else "the cluster key is not for this node's key"
        )
    try:
        file_key = _decrypt(holder.secret, base64.b64decode(wrapped), holder.name)
        plain = json.loads(_decrypt(file_key, base64.b64decode(document["sealed"]), "content"))
    except InvalidTag as error:
        raise KeyringError(INVALID_KEY if holder.is_unlock_key else "the cluster key was altered") from error
    return Keyring(
        {int(key_id): base64.b64decode(key) for key_id, key in plain["keys"].items()},
        {name: base64.b64decode(content) for name, content in plain["files"].items()},
    )


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(data)
        if document["format"] != _FORMAT:
            raise KeyringError(
                f"the cluster key is in format {document['format']}, this version reads {_FORMAT}"
            )
        document["holders"].keys(), document["sealed"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeyringError("the cluster key's file is damaged") from error
    return document


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encrypt(key: bytes, plain: bytes, purpose: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _BOUND + purpose.encode())


def _decrypt(key: bytes, sealed: bytes, purpose: str) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _BOUND + purpose.encode())
