"""Secrets. No response has a content: it goes to tasks only, by `Deliveries`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from minicommon.units import HOUR, format_duration
from miniproto.v1 import control_pb2, objects_pb2, secrets_pb2, secrets_pb2_grpc

from minimanager.codec import from_proto, to_proto
from minimanager.domain.filters import filter_secrets
from minimanager.domain.objects import Meta, Secret, SecretSpec, SecretVersion, Service
from minimanager.domain.rotation import rotated
from minimanager.domain.secrets import check_secret, check_secret_data, find_secret, in_use, users_of_secret
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import check_labels
from minimanager.rpc import views
from minimanager.rpc.configs import ONLY_LABELS
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, ensure_version, filters_of
from minimanager.rpc.secret_audit import SecretAudit
from minimanager.rpc.uses import uses_version
from minimanager.rpc.watches import Watches, change_of
from minimanager.store.contents import Contents
from minimanager.store.keys import Kind

Context = aio.ServicerContext[Any, Any]


MAX_GRACE_NS = 365 * 24 * HOUR
"""A content that nobody uses is not kept longer than a year."""


class SecretsServicer(secrets_pb2_grpc.SecretsServicer):
    def __init__(self, core: Core, contents: Contents, audit: SecretAudit) -> None:
        self._core = core
        self._contents = contents
        self._audit = audit
        self._watches = Watches(core.cache)

    def close(self) -> None:
        """The manager stops: whoever watches is told to ask another."""
        self._watches.close()

    async def Create(self, request: secrets_pb2.CreateSecretRequest, context: Context) -> control_pb2.Created:
        check(request)
        spec: SecretSpec = from_proto(request.spec)
        check_secret(spec, request.data)
        check_labels(spec.labels)

        async def attempt(snapshot: Snapshot) -> control_pb2.Created:
            if any(secret.spec.name == spec.name for secret in snapshot.secrets.values()):
                raise AlreadyExistsError(f"secret {spec.name} already exists")
            core, secret_id, now_ns = self._core, self._core.new_id(), self._core.clock.now_ns()
            secret = Secret(
                id=secret_id,
                meta=Meta(0, now_ns, now_ns),
                spec=spec,
                versions=(SecretVersion(1, now_ns, len(request.data)),),
            )
            transaction = core.writer.begin().create(secret)
            transaction.claim(core.keys.name(Kind.SECRET, spec.name), secret_id)
            sealed = self._contents.seal_secret(secret_id, 1, request.data)
            transaction.put_content(core.keys.secret_content(secret_id, 1), sealed)
            return control_pb2.Created(id=secret_id, revision=await core.commit(transaction))

        return await self._core.retried(attempt)

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> objects_pb2.Secret:
        check(request)
        return _message(find_secret(await self._core.read(request.min_revision), request.ref))

    async def List(
        self, request: control_pb2.ListRequest, context: Context
    ) -> secrets_pb2.ListSecretsResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        chosen = filter_secrets(snapshot, filters_of(request.filters))
        return secrets_pb2.ListSecretsResponse(
            secrets=[_message(secret) for secret in chosen], revision=snapshot.revision
        )

    async def Update(self, request: secrets_pb2.UpdateSecretRequest, context: Context) -> control_pb2.Changed:
        check(request)
        spec: SecretSpec = from_proto(request.spec)
        check_labels(spec.labels)
        await self._core.read(request.version)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            secret = find_secret(snapshot, request.ref)
            ensure_version(secret.meta, request.version)
            if replace(spec, labels=secret.spec.labels) != secret.spec:
                raise InvalidArgumentError(ONLY_LABELS)
            meta = replace(secret.meta, updated_at_ns=self._core.clock.now_ns())
            transaction = self._core.writer.begin().replace(replace(secret, spec=spec, meta=meta))
            return control_pb2.Changed(revision=await self._core.commit(transaction))

        return await self._core.retried(attempt)

    async def Remove(self, request: secrets_pb2.RemoveSecretRequest, context: Context) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            core, secret = self._core, find_secret(snapshot, request.ref)
            version = await uses_version(core, Kind.SECRET, secret.id)
            users = users_of_secret(await core.settle(), secret.id)
            if users:
                raise FailedPreconditionError(in_use("secret", secret.spec.name, users))
            transaction = core.writer.begin().delete(secret)
            transaction.end_uses(Kind.SECRET, secret.id, version=version)
            transaction.release(core.keys.name(Kind.SECRET, secret.spec.name))
            for each in secret.versions:
                transaction.delete_content(core.keys.secret_content(secret.id, each.number))
            return control_pb2.Changed(revision=await core.commit(transaction))

        return await self._core.retried(attempt)

    async def Rotate(
        self, request: secrets_pb2.RotateSecretRequest, context: Context
    ) -> secrets_pb2.RotateSecretResponse:
        check(request)
        if not 0 <= request.grace_ns <= MAX_GRACE_NS:
            allowed = f"0s to {format_duration(MAX_GRACE_NS)}"
            raise InvalidArgumentError(f"grace: must be {allowed}, not {format_duration(request.grace_ns)}")

        async def attempt(snapshot: Snapshot) -> secrets_pb2.RotateSecretResponse:
            secret = find_secret(snapshot, request.ref)
            check_secret_data(secret.spec, request.data)
            rotation = secret.rotation
            if rotation.state.active:
                raise FailedPreconditionError(
                    f"secret {secret.spec.name} is being rotated from version {rotation.old_version} to "
                    f"{rotation.new_version}: wait until that has ended"
                )
            users = [each for each in users_of_secret(snapshot, secret.id) if not each.spec.mode.is_job]
            return await self._rotate(secret, users, request)

        return await self._core.retried(attempt)

    async def _rotate(
        self, secret: Secret, users: list[Service], request: secrets_pb2.RotateSecretRequest
    ) -> secrets_pb2.RotateSecretResponse:
        core, now_ns = self._core, self._core.clock.now_ns()
        changed = rotated(
            secret,
            size_bytes=len(request.data),
            services=tuple(service.id for service in users),
            grace_ns=request.grace_ns,
            now_ns=now_ns,
        )
        transaction = core.writer.begin().replace(changed)
        sealed = self._contents.seal_secret(secret.id, changed.version, request.data)
        transaction.put_content(core.keys.secret_content(secret.id, changed.version), sealed)
        revision = await core.commit(transaction)
        return secrets_pb2.RotateSecretResponse(
            version=changed.version, revision=revision, services=[service.spec.name for service in users]
        )

    async def Audit(
        self, request: secrets_pb2.AuditRequest, context: Context
    ) -> AsyncIterator[secrets_pb2.AuditRecords]:
        check(request)
        secret_id = find_secret(await self._core.read(), request.ref).id if request.ref else ""
        async for records in self._audit.records(since_ns=request.since_ns, secret_id=secret_id):
            yield records

    async def VerifyAudit(
        self, request: secrets_pb2.VerifyAuditRequest, context: Context
    ) -> secrets_pb2.AuditVerdict:
        check(request)
        return await self._audit.verdict()

    async def Watch(
        self, request: control_pb2.GetRequest, context: Context
    ) -> AsyncIterator[objects_pb2.Secret]:
        check(request)
        secret = find_secret(await self._core.read(request.min_revision), request.ref)
        told = None
        with self._watches.open() as changes:
            while (now := self._core.cache.snapshot().secrets.get(secret.id)) is not None:
                if now != told:
                    told = now
                    yield _message(now)
                await change_of({Kind.SECRET}, changes)
        raise NotFoundError(f"secret {secret.spec.name} was removed")

    async def Who(self, request: control_pb2.GetRequest, context: Context) -> secrets_pb2.WhoResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        secret = find_secret(snapshot, request.ref)
        holders = [
            _holder(snapshot, view, use.version)
            for task in snapshot.tasks.values()
            if not snapshot.state(task).finished and task.node_id
            for use in task.spec.container.secrets
            if use.secret == secret.id
            for view in [views.task(snapshot, task)]
        ]
        holders.sort(key=lambda holder: (holder.task_name, holder.task_id, holder.version))
        return secrets_pb2.WhoResponse(secret=_message(secret), holders=holders, revision=snapshot.revision)


def _holder(snapshot: Snapshot, view: control_pb2.TaskView, version: int) -> secrets_pb2.SecretHolder:
    task = snapshot.tasks[view.task.id]
    return secrets_pb2.SecretHolder(
        task_id=task.id,
        task_name=task.name,
        service_id=task.service_id,
        service_name=task.service_name,
        node_id=task.node_id,
        hostname=view.node_hostname,
        version=version,
        state=view.state,
        state_since_ns=view.state_since_ns,
    )


def _message(secret: Secret) -> objects_pb2.Secret:
    message: objects_pb2.Secret = to_proto(secret)
    return message
