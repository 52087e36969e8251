"""Services: what users ask for. Validated here, carried out by the leader's loops.

A service is written in one transaction with the claims on its name, its published ports and its addresses, so that two
managers cannot give the same to two services. A removed service lets go of its claims at once: they are free for the
next one while its tasks still stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from grpc import aio
from minicommon.errors import FailedPreconditionError
from miniproto.v1 import control_pb2, control_pb2_grpc, objects_pb2

from minimanager.ca.sealer import ClusterSealer
from minimanager.codec import from_proto, to_proto
from minimanager.domain.belongings import belongings
from minimanager.domain.dependencies import ensure_dependencies
from minimanager.domain.filters import filter_services
from minimanager.domain.objects import Meta, Service, ServiceSpec
from minimanager.domain.revisions import (
    all_revisions,
    ensure_replacing,
    requested,
    revised,
    revision_to_go_back_to,
)
from minimanager.domain.secrets import with_contents
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import ensure_may_change, validate_service
from minimanager.domain.validate_mode import ensure_scalable
from minimanager.rpc import views
from minimanager.rpc.claims import ensure_name_free, guard_networks, with_networks
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, check_registry_auth, ensure_version, filters_of, find_service
from minimanager.rpc.uses import guard_uses
from minimanager.store.claims import claims_of

Context = aio.ServicerContext[Any, Any]


class ServicesServicer(control_pb2_grpc.ServicesServicer):
    def __init__(self, core: Core, sealer: ClusterSealer) -> None:
        self._core = core
        self._sealer = sealer

    async def Create(
        self, request: control_pb2.CreateServiceRequest, context: Context
    ) -> control_pb2.Created:
        check(request)
        spec = validate_service(from_proto(request.spec))

        async def attempt(snapshot: Snapshot) -> control_pb2.Created:
            ensure_name_free(snapshot, spec.name)
            needed = ensure_dependencies(snapshot.services, spec)
            now_ns = self._core.clock.now_ns()
            wanted = with_contents(snapshot, with_networks(snapshot, spec))
            has = belongings(snapshot, wanted)
            service_id = self._core.new_id()
            service = Service(
                id=service_id,
                meta=Meta(created_at_ns=now_ns, updated_at_ns=now_ns),
                spec=wanted,
                ports=has.ports,
                virtual_addresses=has.virtual_addresses,
                sealed_registry_auth=self._sealed(service_id, request),
            )
            transaction = self._core.writer.begin()
            transaction.create(service)
            guard_networks(transaction, snapshot, wanted)
            for each in needed:  # two services made at once must not come to wait for each other
                transaction.guard(each)
            guard_uses(transaction, snapshot, None, wanted)
            for key in sorted(claims_of(self._core.keys, service)):
                transaction.claim(key, service.id)
            revision = await self._core.commit(transaction)
            return control_pb2.Created(id=service.id, revision=revision)

        return await self._core.retried(attempt)

    async def Get(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.ServiceView:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        return views.service(snapshot, find_service(snapshot, request.ref))

    async def List(
        self, request: control_pb2.ListRequest, context: Context
    ) -> control_pb2.ListServicesResponse:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        chosen = filter_services(snapshot, filters_of(request.filters))
        return control_pb2.ListServicesResponse(
            services=[views.service(snapshot, service) for service in chosen], revision=snapshot.revision
        )

    async def Update(
        self, request: control_pb2.UpdateServiceRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)
        spec = validate_service(from_proto(request.spec))
        await self._core.read(request.version)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            service = self._present(snapshot, request.ref)
            ensure_version(service.meta, request.version)
            ensure_may_change(service.spec, spec)
            needed = ensure_dependencies(snapshot.services, spec, before=service.spec.depends_on)
            wanted = with_contents(snapshot, with_networks(snapshot, spec))
            changed = requested(self._revised(snapshot, service, wanted))
            if request.HasField("registry_auth"):
                changed = replace(changed, sealed_registry_auth=self._sealed(service.id, request))
            return control_pb2.Changed(revision=await self._replace(snapshot, service, changed, needed))

        return await self._core.retried(attempt)

    async def Scale(self, request: control_pb2.ScaleServiceRequest, context: Context) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            service = self._present(snapshot, request.ref)
            ensure_scalable(service.spec)
            if service.spec.replicas == request.replicas:
                return control_pb2.Changed(revision=service.meta.version)
            spec = validate_service(replace(service.spec, replicas=request.replicas))
            changed = self._revised(snapshot, service, spec)
            return control_pb2.Changed(revision=await self._replace(snapshot, service, changed))

        return await self._core.retried(attempt)

    async def RollBack(
        self, request: control_pb2.RollBackServiceRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            service = self._present(snapshot, request.ref)
            target = revision_to_go_back_to(service, request.revision)
            needed = ensure_dependencies(snapshot.services, target.spec, before=target.spec.depends_on)
            wanted = with_contents(snapshot, target.spec, renew=True)
            changed = requested(self._revised(snapshot, service, wanted), rolling_back=True)
            return control_pb2.Changed(revision=await self._replace(snapshot, service, changed, needed))

        return await self._core.retried(attempt)

    async def Pause(self, request: control_pb2.PauseServiceRequest, context: Context) -> control_pb2.Changed:
        check(request)

        async def attempt(snapshot: Snapshot) -> control_pb2.Changed:
            service = self._present(snapshot, request.ref)
            if request.paused:
                ensure_replacing(service, snapshot.rollouts.get(service.id))
                changed = replace(service, update_paused=True)
            else:
                changed = requested(service, rolling_back=service.rolling_back)
            return control_pb2.Changed(revision=await self._replace(snapshot, service, changed))

        return await self._core.retried(attempt)

    async def History(self, request: control_pb2.GetRequest, context: Context) -> control_pb2.ServiceHistory:
        check(request)
        snapshot = await self._core.read(request.min_revision)
        revisions = all_revisions(find_service(snapshot, request.ref))
        return control_pb2.ServiceHistory(
            revisions=[to_proto(revision) for revision in revisions], revision=snapshot.revision
        )

    async def Remove(
        self, request: control_pb2.RemoveServiceRequest, context: Context
    ) -> control_pb2.Changed:
        check(request)
        return control_pb2.Changed(revision=await self.remove(request.ref))

    async def remove(self, ref: str) -> int:
        """Have the service removed; the revision from which on its name and ports are free."""

        async def attempt(snapshot: Snapshot) -> int:
            service = self._present(snapshot, ref)
            transaction = self._core.writer.begin()
            transaction.replace(replace(service, removing=True, meta=self._touched(service.meta)))
            for key in sorted(claims_of(self._core.keys, service)):
                transaction.release(key)
            return await self._core.commit(transaction)

        return await self._core.retried(attempt)

    def _sealed(
        self, service_id: str, request: control_pb2.CreateServiceRequest | control_pb2.UpdateServiceRequest
    ) -> bytes:
        """What the request gives for the registry, as it may be stored; nothing for nothing."""
        auth: objects_pb2.RegistryAuth = request.registry_auth
        if not auth.username and not auth.password:
            return b""
        check_registry_auth(auth)
        return self._sealer.seal_registry_auth(service_id, auth.SerializeToString())

    def _revised(self, snapshot: Snapshot, service: Service, spec: ServiceSpec) -> Service:
        has = belongings(snapshot, spec, service)
        return revised(service, spec, has, now_ns=self._core.clock.now_ns())

    async def _replace(
        self, snapshot: Snapshot, service: Service, changed: Service, needed: Iterable[Service] = ()
    ) -> int:
        """Write the service, provided that its networks and the services in `needed` are as they were."""
        changed = replace(changed, meta=self._touched(service.meta))
        before, after = claims_of(self._core.keys, service), claims_of(self._core.keys, changed)
        transaction = self._core.writer.begin()
        transaction.replace(changed)
        guard_networks(transaction, snapshot, changed.spec)
        for each in needed:
            transaction.guard(each)
        if changed.spec.task != service.spec.task:
            guard_uses(transaction, snapshot, service.spec, changed.spec)
        for key in sorted(after - before):
            transaction.claim(key, service.id)
        for key in sorted(before - after):
            transaction.release(key)
        return await self._core.commit(transaction)

    def _present(self, snapshot: Snapshot, ref: str) -> Service:
        service = find_service(snapshot, ref)
        if service.removing:
            raise FailedPreconditionError(f"service {service.spec.name} is being removed")
        return service

    def _touched(self, meta: Meta) -> Meta:
        return replace(meta, updated_at_ns=self._core.clock.now_ns())
