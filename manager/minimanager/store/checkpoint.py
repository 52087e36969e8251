"""The beginning of a ledger that has been trimmed: how far its oldest records were removed, and what they ended with.

A checkpoint is sealed with the ledger's key: who can write to etcd can neither make one nor move it, so that the chain
is proved from the checkpoint on as it was from the first record before. What a look at the records found is kept with
it for good, because the records are gone then.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from minicommon.units import HOUR
from miniproto.v1.secrets_pb2 import LedgerCheckpoint

DEFAULT_RECORDS: Final = 50_000
"""Kept when the cluster says nothing else: some 40 MB in etcd, whose quota is 2 GiB by default. A delivery with its
receipt is two records and takes about 1.5 kB."""

DEFAULT_AGE_NS: Final = 90 * 24 * HOUR
"""As long as a node's certificate lasts, with whose key receipts are signed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Records up to `number` were removed; `mac` is that of the last of them. 0: none were."""

    number: int = 0
    mac: bytes = b""
    at_ns: int = 0
    problems: tuple[str, ...] = ()
    """What was wrong with the records that were removed, and with those before them."""

    def sealed(self, key: bytes) -> bytes:
        """As it is stored."""
        message = self._message()
        message.seal = _seal(message, key)
        return message.SerializeToString(deterministic=True)

    def _message(self) -> LedgerCheckpoint:
        return LedgerCheckpoint(
            number=self.number, mac=self.mac, at_ns=self.at_ns, problems=list(self.problems)
        )


def opened(stored: bytes | None, key: bytes) -> Checkpoint | None:
    """What is stored; None: it was changed, or is forged."""
    if stored is None:
        return Checkpoint()
    try:
        message = LedgerCheckpoint.FromString(stored)
    except DecodeError:
        return None
    if not hmac.compare_digest(message.seal, _seal(message, key)):
        return None
    return Checkpoint(message.number, message.mac, message.at_ns, tuple(message.problems))


def _seal(message: LedgerCheckpoint, key: bytes) -> bytes:
    bare = LedgerCheckpoint()
    bare.CopyFrom(message)
    bare.ClearField("seal")
    data = bare.SerializeToString(deterministic=True)
    return hmac.new(key, b"checkpoint\0" + data, hashlib.sha256).digest()
