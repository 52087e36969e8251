"""The file of a backup: who may read it, and how one knows that it is whole.

| part | bytes |
|---|---|
| magic, format | 8 + 1 |
| length of the header | 4, big-endian |
| the header, a `BackupHeader` in clear | |
| SHA-256 of all before it | 32: a header that was damaged is not taken for a wrong key |
| HMAC-SHA-256 of all before it, with the file's key | 32: a wrong key is told before anything is opened |
| chunks | 64 KiB of records each, the last one shorter, AES-256-GCM |

A chunk's nonce is its number and whether it is the last, as in the STREAM construction (Hoang, Reyhanitabar, Rogaway,
Vizár 2015): chunks that are altered, moved, repeated or missing do not open, nor does a file that was cut off. The key
is of this file alone: HKDF with the file's salt, from the unlock key or from scrypt of a passphrase.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from google.protobuf.message import DecodeError
from miniproto.v1 import backup_pb2 as pb

from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.identity.keyring import parse_unlock

MAGIC: Final = b"MINIBACK"
FORMAT: Final = 1

CHUNK_BYTES: Final = 64 * 1024
MAX_HEADER_BYTES: Final = 4096
MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
"""Of one record: etcd takes no value near it."""

SCRYPT_LOG_N: Final = 17
"""What one guess costs, with r=8 and p=1: 128 MiB and about half a second (OWASP Password Storage Cheat Sheet)."""
_LARGEST_LOG_N: Final = 20
"""1 GiB: a file must not make who opens it use more."""

MIN_PASSPHRASE_BYTES: Final = 8
MAX_PASSPHRASE_BYTES: Final = 1024

_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = CHUNK_BYTES + _TAG_BYTES
_HASH_BYTES: Final = 32
_LENGTH_BYTES: Final = 4


class BackupError(FailedPreconditionError):
    """The file is not a backup, is damaged or cut off, or the key is not its key."""


class Secret(Protocol):
    """What a backup is sealed with."""

    @property
    def kind(self) -> pb.BackupSeal.ValueType: ...

    def key(self, header: pb.BackupHeader) -> bytes:
        """The key of the file with this header, 32 bytes."""


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Raises InvalidArgumentError for one that is too short or too long."""

    text: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not MIN_PASSPHRASE_BYTES <= len(self.text) <= MAX_PASSPHRASE_BYTES:
            raise InvalidArgumentError(
                f"passphrase: must have {MIN_PASSPHRASE_BYTES} to {MAX_PASSPHRASE_BYTES} bytes, "
                f"this one has {len(self.text)}"
            )

    @property
    def kind(self) -> pb.BackupSeal.ValueType:
        return pb.BACKUP_SEAL_PASSPHRASE

    def key(self, header: pb.BackupHeader) -> bytes:
        if not 1 <= header.scrypt_log_n <= _LARGEST_LOG_N:
            raise BackupError(f"the backup's header asks for an impossible cost of {header.scrypt_log_n}")
        slow = Scrypt(salt=header.salt, length=32, n=1 << header.scrypt_log_n, r=8, p=1).derive(self.text)
        return _file_key(slow, header.salt)


@dataclass(frozen=True, slots=True)
class UnlockKey:
    """The unlock key of a cluster with autolock, as bytes."""

    value: bytes = field(repr=False)

    @property
    def kind(self) -> pb.BackupSeal.ValueType:
        return pb.BACKUP_SEAL_UNLOCK_KEY

    def key(self, header: pb.BackupHeader) -> bytes:
        return _file_key(self.value, header.salt)


def secret_of(header: pb.BackupHeader, text: str) -> Secret:
    """What the user gave, as what the header asks for. Raises InvalidArgumentError."""
    if header.seal == pb.BACKUP_SEAL_UNLOCK_KEY:
        return UnlockKey(parse_unlock(text))
    return Passphrase(text.encode())


def _file_key(secret: bytes, salt: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=salt, info=b"mini backup").derive(secret)


def new_header(
    secret: Secret, *, cluster_id: str, created_at_ns: int, log_n: int = SCRYPT_LOG_N
) -> pb.BackupHeader:
    """`log_n`: what each guess of a passphrase costs, for tests that need not be safe."""
    return pb.BackupHeader(
        cluster_id=cluster_id,
        created_at_ns=created_at_ns,
        seal=secret.kind,
        salt=os.urandom(32),
        scrypt_log_n=log_n if secret.kind == pb.BACKUP_SEAL_PASSPHRASE else 0,
    )


class BackupWriter:
    """Bytes of the file, in order: `begin`, `add` for each record, `finish`. Making one takes scrypt's time."""

    def __init__(self, header: pb.BackupHeader, secret: Secret) -> None:
        self._key = secret.key(header)
        encoded = header.SerializeToString(deterministic=True)
        head = MAGIC + bytes((FORMAT,)) + len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded
        head += hashlib.sha256(head).digest()
        self._head = head + hmac.digest(self._key, head, "sha256")
        self._cipher = AESGCM(self._key)
        self._buffer = bytearray()
        self._number = 0

    def begin(self) -> bytes:
        return self._head

    def add(self, record: pb.BackupRecord) -> bytes:
        """What is ready to be written after this record; often nothing."""
        data = record.SerializeToString()
        self._buffer += len(data).to_bytes(_LENGTH_BYTES, "big") + data
        out = bytearray()
        while len(self._buffer) > CHUNK_BYTES:  # never the last: it may turn out to be that
            out += self._seal(bytes(self._buffer[:CHUNK_BYTES]), last=False)
            del self._buffer[:CHUNK_BYTES]
        return bytes(out)

    def finish(self) -> bytes:
        return self._seal(bytes(self._buffer), last=True)

    def _seal(self, plain: bytes, *, last: bool) -> bytes:
        sealed = self._cipher.encrypt(_nonce(self._number, last=last), plain, self._head)
        self._number += 1
        return sealed


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((last,))


class BackupReader:
    """Reads a file from its beginning. Raises BackupError when it does not begin as one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        fixed = file.read(len(MAGIC) + 1 + _LENGTH_BYTES)
        if not fixed.startswith(MAGIC) or len(fixed) < len(MAGIC) + 1 + _LENGTH_BYTES:
            raise BackupError("the file is not a backup of mini")
        if fixed[len(MAGIC)] != FORMAT:
            raise BackupError(
                f"the backup is in format {fixed[len(MAGIC)]}, this version reads format {FORMAT}"
            )
        size = int.from_bytes(fixed[-_LENGTH_BYTES:], "big")
        if size > MAX_HEADER_BYTES:
            raise BackupError("the backup is damaged: its header has an impossible length")
        encoded, digest, mac = file.read(size), file.read(_HASH_BYTES), file.read(_HASH_BYTES)
        if len(encoded) < size or len(mac) < _HASH_BYTES:
            raise BackupError("the backup is cut off: it ends in its header")
        if hashlib.sha256(fixed + encoded).digest() != digest:
            raise BackupError("the backup is damaged: its header was altered")
        try:
            self.header = pb.BackupHeader.FromString(encoded)
        except DecodeError as error:
            raise BackupError("the backup is damaged: its header cannot be read") from error
        self._signed = fixed + encoded + digest
        self._mac = mac

    def records(self, secret: Secret) -> Iterator[pb.BackupRecord]:
        """Every record, once. Raises BackupError, and at the latest in the end when the file is not whole."""
        if secret.kind != self.header.seal:
            wanted = "unlock key" if self.header.seal == pb.BACKUP_SEAL_UNLOCK_KEY else "passphrase"
            raise BackupError(f"the backup is sealed with the {wanted}")
        key = secret.key(self.header)
        if not hmac.compare_digest(hmac.digest(key, self._signed, "sha256"), self._mac):
            unlock = self.header.seal == pb.BACKUP_SEAL_UNLOCK_KEY
            what = (
                "unlock key is not the one of when the backup was made" if unlock else "passphrase is wrong"
            )
            raise BackupError(f"the backup does not open: the {what}")
        yield from _records(self._chunks(AESGCM(key)))

    def _chunks(self, cipher: AESGCM) -> Iterator[bytes]:
        number, present = 0, self._file.read(_SEALED_BYTES)
        while True:
            following = self._file.read(_SEALED_BYTES)
            try:
                yield cipher.decrypt(_nonce(number, last=not following), present, self._signed + self._mac)
            except InvalidTag as error:
                raise BackupError(self._why(cipher, number, present, following)) from error
            if not following:
                return
            number, present = number + 1, following

    def _why(self, cipher: AESGCM, number: int, present: bytes, following: bytes) -> str:
        where = f"in its part {number + 1}, of {CHUNK_BYTES // 1024} KiB each"
        if following:
            return f"the backup is damaged {where}"
        if len(present) < _SEALED_BYTES:
            return f"the backup is cut off or damaged {where}"
        try:
            cipher.decrypt(_nonce(number, last=False), present, self._signed + self._mac)
        except InvalidTag:
            return f"the backup is cut off or damaged {where}"
        return f"the backup is cut off after its part {number + 1}"


def _records(chunks: Iterator[bytes]) -> Iterator[pb.BackupRecord]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        at = 0
        while len(buffer) - at >= _LENGTH_BYTES:
            size = int.from_bytes(buffer[at : at + _LENGTH_BYTES], "big")
            if size > MAX_RECORD_BYTES:
                raise BackupError("the backup holds a record of an impossible length")
            if len(buffer) - at - _LENGTH_BYTES < size:
                break
            begin = at + _LENGTH_BYTES
            try:
                yield pb.BackupRecord.FromString(bytes(buffer[begin : begin + size]))
            except DecodeError as error:
                raise BackupError("the backup holds a record that cannot be read") from error
            at = begin + size
        del buffer[:at]
    if buffer:
        raise BackupError("the backup ends in the middle of a record")


@dataclass(frozen=True, slots=True)
class Backup:
    """A file that was read whole: its manifest, and its entries."""

    manifest: pb.BackupManifest
    entries: tuple[pb.BackupEntry, ...] = field(repr=False)


def read_backup(file: BinaryIO, key: str) -> Backup:
    """Everything in the file, opened with the passphrase or unlock key. Raises BackupError, InvalidArgumentError."""
    reader = BackupReader(file)
    manifest: pb.BackupManifest | None = None
    entries: list[pb.BackupEntry] = []
    ended = False
    for record in reader.records(secret_of(reader.header, key)):
        kind = record.WhichOneof("record")
        if ended or (kind == "manifest") != (manifest is None):
            raise BackupError("the backup's records are not in order")
        if kind == "manifest":
            manifest = record.manifest
        elif kind == "entry":
            entries.append(record.entry)
        elif kind == "end":
            ended = True
            if record.end.entries != len(entries):
                raise BackupError(f"the backup has {len(entries)} entries of {record.end.entries}")
        else:
            raise BackupError("the backup has a record that this version does not know")
    if manifest is None or not ended:
        raise BackupError("the backup has no end")
    return Backup(manifest, tuple(entries))
