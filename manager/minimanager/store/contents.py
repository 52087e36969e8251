"""The contents of secrets and configs: sealed in the store, in a manager's memory only while they are written or sent.

They have keys apart from the objects', so that the watch cache does not hold them. What a content is sealed for is in
its key: one that was copied to another key does not open there.
"""

from __future__ import annotations

from minicommon.errors import NotFoundError

from minimanager.store.api import Store
from minimanager.store.envelope import Envelope
from minimanager.store.keys import Keys, config_purpose, secret_purpose


class Contents:
    """Seals contents for the store and opens them again."""

    def __init__(self, store: Store, keys: Keys, envelope: Envelope) -> None:
        self._store = store
        self._keys = keys
        self._envelope = envelope

    def seal_secret(self, secret_id: str, version: int, data: bytes) -> bytes:
        return self._envelope.seal(secret_purpose(secret_id, version), data)

    def seal_config(self, config_id: str, data: bytes) -> bytes:
        return self._envelope.seal(config_purpose(config_id), data)

    async def secret(self, secret_id: str, version: int) -> bytes:
        """A version of a secret in clear.

        Raises NotFoundError, SealError when it was tampered with, and UnavailableError.
        """
        key = self._keys.secret_content(secret_id, version)
        return await self._opened(key, secret_purpose(secret_id, version))

    async def config(self, config_id: str) -> bytes:
        """The content of a config in clear. Raises as `secret`."""
        return await self._opened(self._keys.config_content(config_id), config_purpose(config_id))

    async def _opened(self, key: str, purpose: str) -> bytes:
        found = await self._store.get(key)
        if found is None:
            raise NotFoundError(f"{purpose}: there is no such content any more")
        return self._envelope.open(purpose, found.value)
