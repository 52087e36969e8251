"""Configs: like secrets, but everybody who may read services may read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from miniproto.v1 import control_pb2, secrets_pb2, secrets_pb2_grpc

from minimanager.codec import from_proto, to_proto
from minimanager.domain.filters import filter_configs
from minimanager.domain.objects import Config, ConfigSpec, Meta
from minimanager.domain.secrets import check_config, find_config, in_use, users_of_config
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import check_labels
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, ensure_version, filters_of
from minimanager.rpc.uses import uses_version
from minimanager.store.contents import Contents
from minimanager.store.keys import Kind

Context = aio.ServicerContext[Any, Any]

ONLY_LABELS = "only updates to Labels are allowed"
"""Swarm's words (swarmkit `manager/controlapi/secret.go`)."""


class ConfigsServicer(secrets_pb2_grpc.ConfigsServicer):
    def __init__(self, core: Core, contents: Contents) -> None:
        self._core = core
        self._contents = contents

    async def Create(self, request: secrets_pb2.CreateConfigRequest, context: Context) -> control_pb2.Created:
        check(request)
        spec: ConfigSpec = from_proto(request.spec)
        check_config(spec, request.data)
        check_labels(spec.labels)

        async def attempt(snapshot: Snapshot) -> control_pb2.Created:
            if any(config.spec.name == spec.name for config in snapshot.configs.values()):
                raise AlreadyExistsError(f"config {spec.name} already exists")
            core, config_id, now_ns = self._core, self._core.new_id(), self._core.clock.now_ns()
            config = Config(
                id=config_id, meta=Meta(0, now_ns, now_ns), spec=spec, size_bytes=len(request.data)
            )
            transaction = core.writer.begin().create(config)
            transaction.claim(core.keys.name(Kind.CONFIG, spec.name), config_id)
            sealed = self._contents.seal_config(config_id, request.data)
            transaction.put_content(core.keys.config_content(config_id), sealed)
            return control_pb2.Created(id=config_id, revision=await core.commit(transaction))

        return await self._core.retried(attempt)

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> secrets_pb2.ConfigView:
        check(request)
        config = find_config(await self._core.read(request.min_revision), request.ref)
        return secrets_pb2.ConfigView(config=to_proto(config), data=await self._contents.config(config.id))

    async def List(
        self, request: control_pb2.ListRequest, context: Context
    ) -> secrets_pb2.ListConfigsResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        chosen = filter_configs(snapshot, filters_of(request.filters))
        return secrets_pb2.ListConfigsResponse(
            configs=[to_proto(config) for config in chosen], revision=snapshot.revision
        )

    async def Update(self, request: secrets_pb2.UpdateConfigRequest, context: Context) -> control_pb2.Changed:
        check(request)
        spec: ConfigSpec = from_proto(request.spec)
        check_labels(spec.labels)
        await self._core.read(request.version)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            config = find_config(snapshot, request.ref)
            ensure_version(config.meta, request.version)
            if replace(spec, labels=config.spec.labels) != config.spec:
                raise InvalidArgumentError(ONLY_LABELS)
            meta = replace(config.meta, updated_at_ns=self._core.clock.now_ns())
            transaction = self._core.writer.begin().replace(replace(config, spec=spec, meta=meta))
            return control_pb2.Changed(revision=await self._core.commit(transaction))

        return await self._core.retried(attempt)

    async def Remove(self, request: secrets_pb2.RemoveConfigRequest, context: Context) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            core, config = self._core, find_config(snapshot, request.ref)
            version = await uses_version(core, Kind.CONFIG, config.id)
            users = users_of_config(await core.settle(), config.id)
            if users:
                raise FailedPreconditionError(in_use("config", config.spec.name, users))
            transaction = core.writer.begin().delete(config)
            transaction.end_uses(Kind.CONFIG, config.id, version=version)
            transaction.release(core.keys.name(Kind.CONFIG, config.spec.name))
            transaction.delete_content(core.keys.config_content(config.id))
            return control_pb2.Changed(revision=await core.commit(transaction))

        return await self._core.retried(attempt)
