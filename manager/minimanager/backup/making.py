"""Making a backup: every key of the cluster at one revision of etcd, and what opens the sealed ones.

Keys that hang on a lease (who leads) are left out, as is what says only how things are now: they would be false later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

from minicommon import __version__
from minicommon.backup_file import BackupWriter, Passphrase, Secret, UnlockKey, new_header
from minicommon.errors import FailedPreconditionError
from minicommon.settings import ManagerSettings
from miniproto.v1 import backup_pb2 as pb

from minimanager.ca.keyholder import KeyHolder
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Cluster
from minimanager.rpc.core import Core
from minimanager.rpc.requests import require_cluster
from minimanager.store.api import KeyValue
from minimanager.store.keys import Keys

CHUNK_BYTES: Final = 256 * 1024
"""Of the file in one message; well below gRPC's default limit of 4 MiB."""

NOT_SEALED: Final = (
    "passphrase: is needed, since the swarm has no unlock key: give one with --passphrase-file, or turn autolock on "
    "(minictl swarm update --autolock=true)"
)

UNSEEN: Final = (
    "passphrase: is needed, since nobody has seen the swarm's unlock key yet: give one with --passphrase-file, or have "
    "the key shown (minictl swarm unlock-key)"
)


class BackupMaker:
    def __init__(
        self, core: Core, sealer: ClusterSealer, holder: KeyHolder, settings: ManagerSettings
    ) -> None:
        self._core = core
        self._sealer = sealer
        self._holder = holder
        self._settings = settings

    async def file(self, passphrase: bytes) -> AsyncIterator[bytes]:
        """The bytes of a backup of now, in order. Without a passphrase it is sealed with the unlock key.

        Raises InvalidArgumentError for a passphrase that is too short, FailedPreconditionError without any secret.
        """
        core = self._core
        cluster = require_cluster(await core.settle())
        secret = self._secret(cluster, passphrase)
        header = new_header(secret, cluster_id=cluster.id, created_at_ns=core.clock.now_ns())
        writer = await asyncio.to_thread(BackupWriter, header, secret)
        listed = await core.store.list(core.keys.prefix)
        items = list(listed.items)
        for prefix in (core.keys.sealed, core.keys.ledger):
            items += (await core.store.list(prefix, revision=listed.revision)).items
        entries = kept(core.keys, items)
        manifest = self._manifest(cluster, header, listed.revision)
        waiting = bytearray(writer.begin() + writer.add(pb.BackupRecord(manifest=manifest)))
        for entry in entries:
            waiting += writer.add(pb.BackupRecord(entry=entry))
            while len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting[:CHUNK_BYTES])
                del waiting[:CHUNK_BYTES]
        waiting += writer.add(pb.BackupRecord(end=pb.BackupEnd(entries=len(entries)))) + writer.finish()
        for start in range(0, len(waiting), CHUNK_BYTES):
            yield bytes(waiting[start : start + CHUNK_BYTES])

    def _secret(self, cluster: Cluster, passphrase: bytes) -> Secret:
        if passphrase:
            return Passphrase(passphrase)
        key = self._sealer.open_unlock_key(cluster)
        if not key:
            raise FailedPreconditionError(NOT_SEALED)
        if cluster.unlock_key_pending:
            raise FailedPreconditionError(UNSEEN)
        return UnlockKey(key)

    def _manifest(self, cluster: Cluster, header: pb.BackupHeader, revision: int) -> pb.BackupManifest:
        root, settings = self._sealer.present_authority(cluster), self._settings
        return pb.BackupManifest(
            cluster_id=cluster.id,
            node_id=settings.node_id,
            hostname=settings.hostname,
            advertise_host=settings.advertise_host,
            join_port=settings.join_port,
            mini_version=__version__,
            created_at_ns=header.created_at_ns,
            revision=revision,
            root_ca_pem=root.certificate_pem,
            root_key_pem=root.key_pem,
            cluster_keys=self._holder.cluster_keys,
            certificate_lifetime_ns=cluster.spec.certificate_lifetime_ns,
        )


def kept(keys: Keys, items: list[KeyValue]) -> list[pb.BackupEntry]:
    """Of a listing, what a backup has."""
    return list(_entries(keys, items))


def _entries(keys: Keys, items: list[KeyValue]) -> Iterator[pb.BackupEntry]:
    for item in items:
        momentary = item.lease_id or item.key == keys.barrier or item.key.startswith(keys.key_holders)
        if not momentary:
            yield pb.BackupEntry(key=item.key, value=item.value)
