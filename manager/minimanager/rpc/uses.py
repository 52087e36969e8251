"""That nothing begins to use a secret or config while it is being removed.

Who begins to use one writes its key of uses, in the transaction that also guards the object. Who removes it has read
that key before it looked for users, and commits only while the key is what it was.
"""

from __future__ import annotations

from minimanager.domain.objects import ServiceSpec
from minimanager.domain.secrets import config_ids, secret_ids
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.store.keys import Kind
from minimanager.store.transaction import Transaction


def guard_uses(
    transaction: Transaction, snapshot: Snapshot, old: ServiceSpec | None, new: ServiceSpec
) -> None:
    """Commit only while what the service uses is there; `old` is what it had before, None for a new one."""
    for secret_id in sorted(secret_ids(new)):
        if old is None or secret_id not in secret_ids(old):
            transaction.begin_use(Kind.SECRET, secret_id)
        transaction.guard(snapshot.secrets[secret_id])
    for config_id in sorted(config_ids(new)):
        if old is None or config_id not in config_ids(old):
            transaction.begin_use(Kind.CONFIG, config_id)
        transaction.guard(snapshot.configs[config_id])


async def uses_version(core: Core, kind: Kind, object_id: str) -> int:
    """The revision of the object's key of uses; 0: nothing ever used it."""
    found = await core.store.get(core.keys.use(kind, object_id))
    return found.mod_revision if found is not None else 0
