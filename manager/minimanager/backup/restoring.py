"""Putting a backup back into an empty etcd, and making of it a cluster with one manager.

The daemon leaves the entries in a file; the manager that finds it writes them and removes it. Writing them is
repeatable, and the cluster object comes last: as long as it is not there the work is not done, however often a manager
died over it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from minicommon.clock import Clock
from minicommon.errors import FailedPreconditionError
from minicommon.log import fields
from minicommon.settings import ManagerSettings
from miniproto.v1 import backup_pb2 as pb

from minimanager import codec
from minimanager.domain.objects import Cluster, Node, NodeRole, RemovedNode
from minimanager.store.api import Put, Store
from minimanager.store.keys import Keys, Kind, ObjectKey

logger = logging.getLogger(__name__)

_BATCH_OPS: Final = 512
_BATCH_BYTES: Final = 1024 * 1024
"""Of one transaction, as group commit has them (`store/writer.py`)."""


async def restore(path: Path, settings: ManagerSettings, *, store: Store, keys: Keys, clock: Clock) -> bool:
    """Write what the file at `path` holds, unless that was done. Whether it was written now.

    Raises FailedPreconditionError when the file does not hold the cluster of the settings.
    """
    if not path.exists():  # noqa: ASYNC240  once, at the start
        return False
    written = False
    if await store.get(keys.object(Kind.CLUSTER, settings.cluster_id)) is None:
        entries = pb.BackupEntries.FromString(path.read_bytes()).entries  # noqa: ASYNC240
        await load(store, only_manager(entries, keys, node_id=settings.node_id, now_ns=clock.now_ns()))
        written = True
        logger.info("Cluster restored from a backup.", extra=fields(entries=len(entries)))
    path.unlink(missing_ok=True)  # noqa: ASYNC240
    return written


async def load(store: Store, puts: Iterable[Put]) -> None:
    """Write all of them, in order, some at a time."""
    batch: list[Put] = []
    size = 0
    for put in puts:
        if batch and (len(batch) == _BATCH_OPS or size + len(put.value) > _BATCH_BYTES):
            await store.txn((), batch)
            batch, size = [], 0
        batch.append(put)
        size += len(put.key) + len(put.value)
    if batch:
        await store.txn((), batch)


def only_manager(
    entries: Iterable[pb.BackupEntry], keys: Keys, *, node_id: str, now_ns: int
) -> Iterator[Put]:
    """The entries without the managers that are not this one, whose certificates are refused from now on.

    Raises FailedPreconditionError when the cluster or this node is not among them.
    """
    found = {entry.key: entry.value for entry in entries}
    cluster_key = next((key for key in found if _kind(keys, key) is Kind.CLUSTER), "")
    if not cluster_key or keys.object(Kind.NODE, node_id) not in found:
        raise FailedPreconditionError("the backup has no cluster, or not the manager that made it")
    gone = {node.id: node for node in _managers(found, keys) if node.id != node_id}
    cluster = codec.decode(Kind.CLUSTER, found.pop(cluster_key), 0)
    assert isinstance(cluster, Cluster), "the codec decodes by kind"
    for key, value in found.items():
        if not _belongs_to(keys, key, value, gone):
            yield Put(key, value)
    yield Put(cluster_key, codec.encode(_without(cluster, gone.values(), now_ns)))


def _kind(keys: Keys, key: str) -> Kind | None:
    parsed = keys.parse(key)
    return parsed.kind if isinstance(parsed, ObjectKey) else None


def _managers(found: dict[str, bytes], keys: Keys) -> Iterator[Node]:
    for key, value in found.items():
        if _kind(keys, key) is Kind.NODE:
            node = codec.decode(Kind.NODE, value, 0)
            if isinstance(node, Node) and node.spec.role is NodeRole.MANAGER:
                yield node


def _belongs_to(keys: Keys, key: str, value: bytes, gone: dict[str, Node]) -> bool:
    """Whether the key is a node that is gone, its status, or a claim of it."""
    parsed = keys.parse(key)
    if isinstance(parsed, ObjectKey):
        return parsed.kind in (Kind.NODE, Kind.NODE_STATUS) and parsed.id in gone
    return parsed is not None and value.decode(errors="replace") in gone


def _without(cluster: Cluster, gone: Iterable[Node], now_ns: int) -> Cluster:
    lifetime_ns = cluster.spec.certificate_lifetime_ns
    removed = (RemovedNode(each.id, each.certificate_expires_at_ns or now_ns + lifetime_ns) for each in gone)
    return replace(cluster, removed_nodes=(*cluster.removed_nodes, *removed))
