"""This manager's own copy of the cluster's keys: kept equal to what the cluster object wants, on disk and in memory.

| the cluster says | the keyring on this disk |
|---|---|
| `sealed_next_key` | has the present key and the next one |
| no `sealed_next_key` | has the key `key_id` only |
| autolock, confirmed | opens with the unlock key only, and has the keys of etcd's certificates |
| a former unlock key | opens with that one, too |
| no autolock, or its first key not yet confirmed | opens with the node's key |

Each manager says in the store which keys are on its disk, so that the leader knows when all can open what a new key
seals.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from minicommon.identity import etcd_keys
from minicommon.identity.keyring import Holder, Keyring, KeyringFile, node_holder, unlock_holder
from minicommon.log import fields
from minicommon.paths import NodePaths

from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Cluster
from minimanager.store.api import Put, Store
from minimanager.store.cache import Cache
from minimanager.store.envelope import Envelope
from minimanager.store.keys import Keys

logger = logging.getLogger(__name__)


def next_key_purpose(key_id: int) -> str:
    """What the next cluster key is sealed for."""
    return f"cluster-key/{key_id}"


def acknowledgment(present: int, known: frozenset[int]) -> bytes:
    """What a manager says of its keys: the one that it seals with, and all that are on its disk."""
    return f"{present}:{','.join(str(key_id) for key_id in sorted(known))}".encode()


@dataclass(frozen=True, slots=True)
class _Written:
    """What the file is known to hold."""

    keyring: Keyring
    holders: tuple[Holder, ...]


class KeyHolder:
    """`run` for as long as the manager lives."""

    def __init__(self, paths: NodePaths, keyring: Keyring, envelope: Envelope, *, node_id: str) -> None:
        self._paths = paths
        self._file = KeyringFile(paths.cluster_key)
        self._envelope = envelope
        self._sealer = ClusterSealer(envelope)
        self._node_id = node_id
        self._keyring = keyring
        self._written: _Written | None = None
        self._followed = 0
        self._said = b""
        self._progress = asyncio.Condition()

    @property
    def cluster_keys(self) -> Mapping[int, bytes]:
        """All that this manager has: the present one and, while it changes, the next one."""
        return self._keyring.cluster_keys

    async def run(self, cache: Cache, store: Store, keys: Keys) -> None:
        """Follow the cluster object."""
        with cache.subscribe() as changes:
            while True:
                cluster = cache.snapshot().cluster
                if cluster is not None and cluster.meta.version != self._followed:
                    await self._follow(cluster)
                    await self._say(cluster, store, keys)
                    async with self._progress:
                        self._followed = cluster.meta.version
                        self._progress.notify_all()
                await changes.next()

    async def wait_followed(self, version: int) -> None:
        """Return when this manager's disk is as the cluster at `version` wants it."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._followed >= version)

    async def _follow(self, cluster: Cluster) -> None:
        keyring = self._wanted_keys(cluster)
        unlocking = self._unlocking(cluster, keyring)
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, keyring, unlocking))
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait({writing})  # a manager that stops leaves no thread behind that writes
        self._envelope.use(keyring.cluster_keys, cluster.key_id)

    def _wanted_keys(self, cluster: Cluster) -> Keyring:
        keyring, next_id = self._keyring, cluster.next_key_id
        if not cluster.sealed_next_key:
            return keyring.only_key(cluster.key_id)
        if next_id not in keyring.cluster_keys:
            key = self._envelope.open(next_key_purpose(next_id), cluster.sealed_next_key)
            return keyring.with_key(next_id, key)
        return keyring

    def _unlocking(self, cluster: Cluster, keyring: Keyring) -> tuple[Holder, ...]:
        """Who opens the keyring by an unlock key; nobody: the node's own key does.

        The former one does, too, until somebody has the present one for sure. They may be sealed with a key that is
        known only now. A first one that nobody has confirmed locks nothing: it may have been shown to nobody.
        """
        if not cluster.sealed_unlock_key or cluster.unlock_key_pending:
            return ()
        self._envelope.use({**self._keyring.cluster_keys, **keyring.cluster_keys}, cluster.key_id)
        present = unlock_holder(self._sealer.open_unlock_key(cluster))
        former = self._sealer.open_former_unlock_key(cluster)
        return (present, unlock_holder(former, former=True)) if former else (present,)

    def _write(self, keyring: Keyring, unlocking: tuple[Holder, ...]) -> None:
        """Bring the disk there; a crash in between leaves what can be opened, and is completed by the next start."""
        with self._file.exclusive():
            holders = unlocking
            if unlocking:
                files = {**keyring.files, **etcd_keys.at_rest(self._paths)}
            else:
                files = {}
                holders = (node_holder(self._paths.node_key.read_bytes()),)
                etcd_keys.put_at_rest(self._paths, keyring.files)
            keyring = replace(keyring, files=files)
            wanted = _Written(keyring, holders)
            if wanted != self._written:
                self._file.write(keyring, holders)
                logger.info(
                    "Keyring written.",
                    extra=fields(keys=sorted(keyring.cluster_keys), locked=bool(unlocking)),
                )
            self._keyring, self._written = keyring, wanted
            if unlocking:
                etcd_keys.take_from_rest(self._paths)

    async def _say(self, cluster: Cluster, store: Store, keys: Keys) -> None:
        """Only while the cluster key changes does anybody want to know."""
        if not cluster.sealed_next_key:
            return
        said = acknowledgment(cluster.key_id, frozenset(self._keyring.cluster_keys))
        await store.txn((), (Put(keys.key_holder(self._node_id), said),))
