"""The keys behind encryption at rest: the unlock key, and changes of the cluster key."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.identity.keyring import KEY_BYTES, new_unlock_key, parse_unlock, same_key, unlock_text
from miniproto.v1 import control_pb2, security_pb2, security_pb2_grpc

from minimanager.ca.keyholder import KeyHolder, acknowledgment, next_key_purpose
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import Cluster, NodeRole
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster
from minimanager.rpc.watches import Watches, change_of
from minimanager.store.envelope import Envelope
from minimanager.store.keys import Kind

Context = aio.ServicerContext[Any, Any]

LOCKED = (
    "Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "minictl swarm unlock" to unlock it.'
)
"""Docker's words (moby `daemon/cluster/errors.go`)."""

NOT_LOCKED = "swarm is not locked"


class EncryptionKeysServicer(security_pb2_grpc.EncryptionKeysServicer):
    def __init__(self, core: Core, envelope: Envelope, holder: KeyHolder) -> None:
        self._core = core
        self._envelope = envelope
        self._sealer = ClusterSealer(envelope)
        self._holder = holder
        self._watches = Watches(core.cache)

    def close(self) -> None:
        """The manager stops: whoever watches is told to ask another."""
        self._watches.close()

    async def UnlockKey(
        self, request: security_pb2.GetUnlockKeyRequest, context: Context
    ) -> security_pb2.GetUnlockKeyResponse:
        """The present one, or a new one.

        Until a new one is confirmed the one before it opens managers, too, and until the first one is confirmed they
        are not locked: whatever dies before a key has been shown to somebody, nobody is locked out. When a
        confirmation is answered, this manager's disk opens with the present key only.
        """
        check(request)
        if request.rotate and request.confirm:
            raise InvalidArgumentError(
                "confirm: must be empty with rotate: a new key is confirmed when it is known"
            )
        cluster = require_cluster(await self._core.settle())
        if request.rotate or request.confirm:
            change = self._with_new_unlock_key if request.rotate else self._confirmed
            cluster = await self._core.retried(
                lambda snapshot: change(require_cluster(snapshot), request.confirm)
            )
            await self._holder.wait_followed(cluster.meta.version)
        key = self._sealer.open_unlock_key(cluster)
        return security_pb2.GetUnlockKeyResponse(key=unlock_text(key) if key else "")

    async def Rotate(
        self, request: security_pb2.RotateEncryptionKeyRequest, context: Context
    ) -> control_pb2.Changed:
        """Begin. The leader ends it when everything is under the new key."""
        check(request)
        await self._core.settle()

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            cluster = require_cluster(snapshot)
            if cluster.sealed_next_key:
                raise FailedPreconditionError("a change of the encryption key is going on")
            key_id = cluster.key_id + 1
            key = secrets.token_bytes(KEY_BYTES)
            sealed = self._envelope.seal(next_key_purpose(key_id), key)
            changed = replace(cluster, sealed_next_key=sealed, next_key_id=key_id)
            return control_pb2.Changed(revision=await self._save(changed))

        return await self._core.retried(attempt)

    async def Status(
        self, request: security_pb2.EncryptionStatusRequest, context: Context
    ) -> security_pb2.EncryptionStatus:
        check(request)
        return await self._status(await self._core.settle())

    async def Watch(
        self, request: security_pb2.EncryptionStatusRequest, context: Context
    ) -> AsyncIterator[security_pb2.EncryptionStatus]:
        check(request)
        await self._core.settle()
        told = None
        with self._watches.open() as changes:
            while True:
                status = await self._status(self._core.cache.snapshot())
                if status != told:
                    told = status
                    yield status
                await change_of({Kind.CLUSTER}, changes)

    async def _status(self, snapshot: Snapshot) -> security_pb2.EncryptionStatus:
        cluster = require_cluster(snapshot)
        return security_pb2.EncryptionStatus(
            key_id=cluster.key_id,
            rotating=bool(cluster.sealed_next_key),
            next_key_id=cluster.next_key_id,
            waiting=await self._waiting(snapshot, cluster),
        )

    async def _waiting(self, snapshot: Snapshot, cluster: Cluster) -> list[str]:
        if not cluster.sealed_next_key:
            return []
        keys, following = self._core.keys, cluster.next_key_id
        wanted = acknowledgment(cluster.key_id, frozenset({following - 1, following}))
        listed = await self._core.store.list(keys.key_holders)
        there = {item.key.removeprefix(keys.key_holders) for item in listed.items if item.value == wanted}
        managers = (node for node in snapshot.nodes.values() if node.spec.role is NodeRole.MANAGER)
        return sorted(node.id for node in managers if node.id not in there)

    async def _with_new_unlock_key(self, cluster: Cluster, _: str) -> Cluster:
        if not cluster.spec.autolock:
            raise FailedPreconditionError("cannot rotate because autolock is not turned on")
        former = b"" if cluster.unlock_key_pending else cluster.sealed_unlock_key
        changed = replace(
            cluster,
            sealed_unlock_key=self._sealer.unlock_key(new_unlock_key()),
            # One that was never confirmed is known to nobody for sure: the one before it stays.
            sealed_former_unlock_key=cluster.sealed_former_unlock_key or former,
        )
        return await self._saved(changed)

    async def _confirmed(self, cluster: Cluster, text: str) -> Cluster:
        if not same_key(parse_unlock(text), self._sealer.open_unlock_key(cluster)):
            raise FailedPreconditionError("confirm: is not the present unlock key")
        if not cluster.sealed_former_unlock_key and not cluster.unlock_key_pending:
            return cluster
        return await self._saved(replace(cluster, sealed_former_unlock_key=b"", unlock_key_pending=False))

    async def _saved(self, cluster: Cluster) -> Cluster:
        revision = await self._save(cluster)
        return replace(cluster, meta=replace(cluster.meta, version=revision))

    async def _save(self, cluster: Cluster) -> int:
        meta = replace(cluster.meta, updated_at_ns=self._core.clock.now_ns())
        return await self._core.commit(self._core.writer.begin().replace(replace(cluster, meta=meta)))


class UnlockedServicer(security_pb2_grpc.LockServicer):
    """Of a manager that is not locked."""

    async def Unlock(
        self, request: security_pb2.UnlockRequest, context: Context
    ) -> security_pb2.UnlockResponse:
        raise FailedPreconditionError(NOT_LOCKED)
