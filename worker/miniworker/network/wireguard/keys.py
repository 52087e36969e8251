"""The node's own WireGuard keys: made here, kept on this disk only.

Three at most, oldest first. The last is the next one; the one before it is announced as the current one. What the node
really uses is the one that the cluster knows as its current one, so that it and its peers change at the same moment;
until they have, that is the oldest.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from minicommon.log import fields

from miniworker.network.api import Announced
from miniworker.network.errors import NetworkError

logger = logging.getLogger(__name__)

KEPT = 3


@dataclass(frozen=True, slots=True)
class KeyPair:
    private: str = field(repr=False)
    """Base64, 32 bytes, as all WireGuard keys."""
    public: str
    made_at_ns: int


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Two or three pairs, oldest first: pure."""

    pairs: tuple[KeyPair, ...]

    @property
    def announced(self) -> Announced:
        return Announced(self.pairs[-2].public, self.pairs[-1].public)

    def in_use(self, known: str) -> KeyPair:
        """The pair that the cluster knows as the current one; `known` is empty while it knows none."""
        for pair in self.pairs:
            if pair.public == known:
                return pair
        return self.pairs[-2]

    def rotated(self, pair: KeyPair) -> KeyRing:
        """The next one becomes the current one, and `pair` the next."""
        return KeyRing((*self.pairs, pair)[-KEPT:])

    def due_at_ns(self, period_ns: int) -> int:
        """When the next one is to become the current one."""
        return self.pairs[-1].made_at_ns + period_ns


def make_pair(now_ns: int) -> KeyPair:
    private = X25519PrivateKey.generate()
    return KeyPair(_text(private.private_bytes_raw()), _text(private.public_key().public_bytes_raw()), now_ns)


class KeyFile:
    """A ring in a file that only root reads, 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, *, now_ns: int) -> KeyRing:
        """The ring; a new one when there is none, or none that can be read: keys are easily replaced.

        Raises NetworkError.
        """
        try:
            ring = KeyRing(tuple(_pairs(json.loads(self._path.read_text()))))
            if len(ring.pairs) > 1:
                return ring
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(
                "Keys of encrypted networks cannot be read; making others.", extra=fields(error=error)
            )
        return self.write(KeyRing((make_pair(now_ns), make_pair(now_ns))))

    def write(self, ring: KeyRing) -> KeyRing:
        """Whole or not at all. Raises NetworkError."""
        text = json.dumps([{"private": pair.private, "made_at_ns": pair.made_at_ns} for pair in ring.pairs])
        staged = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged.unlink(missing_ok=True)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            staged.replace(self._path)
        except OSError as error:
            raise NetworkError(f"cannot keep the keys of encrypted networks: {error}") from error
        return ring


def _pairs(stored: Iterable[dict[str, str | int]]) -> Iterable[KeyPair]:
    for item in stored:
        private = str(item["private"])
        public = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
        yield KeyPair(private, _text(public.public_bytes_raw()), int(item["made_at_ns"]))


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
