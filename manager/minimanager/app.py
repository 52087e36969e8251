"""The manager, put together: store, cache, control API, dispatcher and, when it leads, the control loops.

Everything that runs for ever is in one supervised group: when one part fails the process ends with the reason, and
the node daemon starts it again. A clean stop goes the other way round: no new calls, sessions told to find another
manager, leadership given up, calls finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health_pb2
from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import UnavailableError
from minicommon.identity.keyring import Keyring, KeyringFile, node_holder
from minicommon.ids import new_id
from minicommon.log import fields
from minicommon.paths import NodePaths
from minicommon.rpc.credentials import CredentialFiles, NodeCredentials, server_credentials
from minicommon.rpc.limits import CallLimits
from minicommon.rpc.server import add_health, add_reflection, listen_tls, listen_unix, new_server
from minicommon.settings import EtcdSettings, ManagerSettings
from minicommon.supervise import Supervisor
from miniproto.v1 import (
    backup_pb2,
    backup_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    join_pb2,
    join_pb2_grpc,
    secrets_pb2,
    secrets_pb2_grpc,
    security_pb2,
    security_pb2_grpc,
    streams_pb2,
    streams_pb2_grpc,
)

from minimanager.audit.journal import FileJournal
from minimanager.backup.making import BackupMaker
from minimanager.backup.restoring import restore
from minimanager.backup.schedule import BackupSchedule, ScheduledBackups
from minimanager.bootstrap import bootstrap
from minimanager.ca.issuer import Issuer
from minimanager.ca.keyholder import KeyHolder
from minimanager.ca.sealer import ClusterSealer
from minimanager.control.leader import Election
from minimanager.control.ledger_keeper import LedgerKeeper
from minimanager.control.loop import Decide, ReconcileLoop
from minimanager.control.secret_keeper import SecretKeeper
from minimanager.control.space import SpaceKeeper
from minimanager.control.sweeper import Sweeper
from minimanager.control.upkeep import DRAIN_NS, UpkeepLoop
from minimanager.decide.reconcile import affected, reconcile
from minimanager.locked import unlocked
from minimanager.rpc import views
from minimanager.rpc.audit import AuditServicer
from minimanager.rpc.backups import BackupsServicer
from minimanager.rpc.client_certificates import ClientCertificatesServicer
from minimanager.rpc.clusters import ClustersServicer
from minimanager.rpc.configs import ConfigsServicer
from minimanager.rpc.containers import ContainersServicer
from minimanager.rpc.core import Core
from minimanager.rpc.deliveries import DeliveriesServicer
from minimanager.rpc.diagnostics import DiagnosticsServicer
from minimanager.rpc.dispatcher.opener import Opener
from minimanager.rpc.dispatcher.service import Dispatcher, manager_addresses
from minimanager.rpc.encryption_keys import EncryptionKeysServicer, UnlockedServicer
from minimanager.rpc.interceptors import CONTROL_LIMITS, JOIN_LIMITS, control_guard, end_refused
from minimanager.rpc.join import JoinService
from minimanager.rpc.join_listener import GrpcJoinListener, JoinListener
from minimanager.rpc.join_tokens import JoinTokensServicer
from minimanager.rpc.membership import MembershipService
from minimanager.rpc.networks import NetworksServicer
from minimanager.rpc.node_streams import NodeStreams
from minimanager.rpc.nodes import NodesServicer
from minimanager.rpc.one_offs import OneOffs
from minimanager.rpc.peers import ManagerPeers
from minimanager.rpc.root_authority import RootAuthorityServicer
from minimanager.rpc.secret_audit import SecretAudit
from minimanager.rpc.secrets import SecretsServicer
from minimanager.rpc.services import ServicesServicer
from minimanager.rpc.tasks import TasksServicer
from minimanager.store.anchor import Anchor
from minimanager.store.api import Compare, Store, StoreStatus
from minimanager.store.cache import Cache
from minimanager.store.contents import Contents
from minimanager.store.envelope import Envelope
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger
from minimanager.store.trimmer import Trimmer
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

CERTIFICATE_SECONDS = "MINI_TEST_CERTIFICATE_SECONDS"
"""Environment variable: the life of node certificates, shorter than a cluster may have it, for tests of renewal."""

DRAIN_SECONDS = "MINI_TEST_DRAIN_SECONDS"
"""Environment variable: how long a change of the cluster key waits for writes under the old one, for tests of it."""

RECONNECT_SECONDS = "MINI_TEST_RECONNECT_SECONDS"
"""Environment variable: how long a node whose connection was cut has to come back, for tests on busy machines."""

NO_CALL_LIMITS = "MINI_TEST_NO_CALL_LIMITS"
"""Environment variable: if it is set clients may call as often as they like, for tests that send rubbish all day."""

STOP_GRACE = 3.0
"""Seconds that calls have to finish when the manager stops."""

STORE_RETRY_NS = 250 * MILLISECOND
"""Between attempts to reach etcd at the start: it may be starting, too."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the process brings along; tests bring a store in memory."""

    settings: ManagerSettings
    store: Store
    keyring: Keyring
    paths: NodePaths
    credentials: Callable[[], NodeCredentials]
    journal: FileJournal
    clock: Clock
    ledger_anchor: Path | None = None
    """None: nothing but the store knows how far the ledger went."""
    backups: BackupSchedule | None = None
    """None: only those that somebody asks for."""
    space: SpaceKeeper | None = None
    """None: the etcd is the user's, or there is none."""
    certificate_lifetime_ns: int = 0
    """Of every node certificate, whatever the cluster says; 0: as it says. For tests, which cannot wait for days."""
    drain_ns: int = DRAIN_NS
    reconnect_grace_ns: int = 0
    control_limits: CallLimits | None = CONTROL_LIMITS
    join_limits: CallLimits | None = JOIN_LIMITS


async def serve(
    paths: NodePaths,
    settings: ManagerSettings,
    *,
    clock: Clock,
    stop: asyncio.Event,
    backups: BackupSchedule | None = None,
) -> None:
    """Run a manager on etcd until `stop` is set; first wait for the unlock key, if it needs one."""
    journal = FileJournal(paths.audit_dir, manager=settings.node_id)
    keyring = await _keyring(paths, journal, stop)
    if keyring is None:
        return
    store = EtcdStore(_with_key_in_use(settings.etcd, paths), clock=clock)
    limited = NO_CALL_LIMITS not in os.environ
    parts = Parts(
        settings=settings,
        store=store,
        keyring=keyring,
        paths=paths,
        credentials=CredentialFiles(paths),
        journal=journal,
        clock=clock,
        ledger_anchor=paths.ledger_anchor,
        backups=backups,
        space=SpaceKeeper(store, clock) if settings.etcd.managed else None,
        certificate_lifetime_ns=int(os.environ.get(CERTIFICATE_SECONDS, "0")) * SECOND,
        drain_ns=int(os.environ.get(DRAIN_SECONDS, DRAIN_NS // SECOND)) * SECOND,
        reconnect_grace_ns=int(os.environ.get(RECONNECT_SECONDS, "0")) * SECOND,
        control_limits=CONTROL_LIMITS if limited else None,
        join_limits=JOIN_LIMITS if limited else None,
    )
    try:
        await Manager(parts).run(stop)
    finally:
        await store.close()
        journal.close()


async def _keyring(paths: NodePaths, journal: FileJournal, stop: asyncio.Event) -> Keyring | None:
    """None: the manager was told to stop while it was locked."""
    file = KeyringFile(paths.cluster_key)
    if await asyncio.to_thread(lambda: file.locked):
        return await unlocked(paths, journal, stop)
    return await asyncio.to_thread(lambda: file.open(node_holder(paths.node_key.read_bytes())))


def _with_key_in_use(etcd: EtcdSettings, paths: NodePaths) -> EtcdSettings:
    """The client's key where it is readable now: with autolock it is not on the disk."""
    copy = paths.etcd_keys / "client.key"
    return replace(etcd, key=str(copy)) if etcd.key and copy.exists() else etcd


def _envelope(keyring: Keyring, cluster_id: str) -> Envelope:
    """It seals with the oldest key until the cluster object has been read: that is what all managers have."""
    oldest = min(keyring.cluster_keys)
    envelope = Envelope(keyring.cluster_keys[oldest], cluster_id, key_id=oldest)
    envelope.use(keyring.cluster_keys, oldest)
    return envelope


class Manager:
    """One manager. `run` once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        keys = Keys(parts.settings.cluster_id)
        self.core = Core(
            cache=Cache(parts.store, keys),
            writer=Writer(parts.store, keys),
            store=parts.store,
            keys=keys,
            clock=parts.clock,
            node_id=parts.settings.node_id,
        )
        self.serving = asyncio.Event()
        """Set once calls are answered."""
        self.control_port = parts.settings.control_port
        """The port listened on; differs from the one of the settings when that is 0."""
        self.join_port = parts.settings.join_port
        """Likewise."""
        self._envelope = _envelope(parts.keyring, parts.settings.cluster_id)
        self._sealer = ClusterSealer(self._envelope)
        self._keys = KeyHolder(parts.paths, parts.keyring, self._envelope, node_id=parts.settings.node_id)
        self._backups = BackupMaker(self.core, self._sealer, self._keys, parts.settings)
        self._contents = Contents(parts.store, keys, self._envelope)
        self._ledger = Ledger(parts.store, keys, self._envelope, Anchor(parts.ledger_anchor))
        self._guard = control_guard(
            cluster_id=parts.settings.cluster_id,
            cache=self.core.cache,
            clock=parts.clock,
            journal=parts.journal,
            limits=parts.control_limits,
        )
        self._server = new_server(self._guard)
        self._health = add_health(self._server)
        self._issuer = Issuer(self._sealer, lifetime_ns=parts.certificate_lifetime_ns)
        join = JoinService(self.core, self._sealer, managers=self._managers, issuer=self._issuer)
        self._join: JoinListener = GrpcJoinListener(
            join, parts.credentials, journal=parts.journal, limits=parts.join_limits
        )
        self._tasks = TasksServicer(self.core)
        self._streams = NodeStreams(self._hostname, ManagerPeers(self.core, parts.credentials))
        self._services = ServicesServicer(self.core, self._sealer)
        self._one_offs = OneOffs(self.core, self._streams, self._services)
        self._containers = ContainersServicer(self.core, self._streams, self._one_offs)
        self._watched: list[SecretsServicer | RootAuthorityServicer | EncryptionKeysServicer] = []
        self._dispatcher: Dispatcher | None = None
        self._election: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises, in a group, what made a part of the manager fail.
        """
        try:
            async with Supervisor() as group:
                starting = group.start("start", self._start(group))
                stopping = group.start("stop", stop.wait())
                try:
                    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
                    await stopping
                    await self._health.enter_graceful_shutdown()
                finally:
                    await self._end_calls()
                group.cancel()
        finally:
            logger.info("Manager stopped.", extra=fields(node_id=self._parts.settings.node_id))

    async def _end_calls(self) -> None:
        """Streams are told to find another manager, the leadership is given up, other calls are finished."""
        if self._election is not None:
            self._election.cancel()
        if self._dispatcher is not None:
            self._dispatcher.close()
        for watched in (self._tasks, *self._watched):
            watched.close()
        self._containers.close()
        await asyncio.gather(self._server.stop(STOP_GRACE), self._join.stop())

    async def _start(self, group: Supervisor) -> None:
        parts, core = self._parts, self.core
        status = await self._reach_store()
        logger.info(
            "Connected to etcd.", extra=fields(version=status.version, endpoints=",".join(status.endpoints))
        )
        if parts.space is not None:
            group.start_eternal("space", parts.space.run())
        await restore(
            parts.paths.restore, parts.settings, store=core.store, keys=core.keys, clock=parts.clock
        )
        await bootstrap(
            parts.paths.bootstrap,
            parts.settings,
            store=core.store,
            writer=core.writer,
            sealer=self._sealer,
            clock=parts.clock,
        )
        group.start_eternal("cache", core.cache.run())
        await core.cache.wait_synced()
        group.start_eternal("keys", self._keys.run(core.cache, core.store, core.keys))
        group.start_eternal("revocations", end_refused(self._guard, core.cache))
        if parts.backups is not None:
            scheduled = ScheduledBackups(parts.backups, self._backups, parts.clock)
            group.start_eternal("backups", scheduled.run())
        self._dispatcher = Dispatcher(
            core, group, self._sealer, self._streams, reconnect_grace_ns=parts.reconnect_grace_ns
        )
        group.start_eternal("dispatcher", self._dispatcher.run())
        group.start_eternal("one-off containers", self._one_offs.run_forever())
        self._add_services(self._dispatcher)
        await self._listen()
        loop = ReconcileLoop(core.cache, core.writer, Decide(reconcile, affected, new_id, parts.clock))
        sweeper = Sweeper(core.store, core.cache, core.writer, parts.clock)
        election = Election(core.store, core.keys, core.node_id, clock=parts.clock)
        keeper = SecretKeeper(core.cache, core.writer, parts.clock)
        ledger = LedgerKeeper(core.cache, self._trimmer(), parts.clock)
        upkeep = UpkeepLoop(
            core.cache, core.writer, core.store, self._envelope, parts.clock, drain_ns=parts.drain_ns
        )
        self._election = group.start_eternal(
            "election", election.run(lambda fence: _lead(loop, sweeper, keeper, ledger, upkeep, fence))
        )
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.serving.set()
        logger.info("Manager started.", extra=fields(node_id=core.node_id, control_port=self.control_port))

    def _trimmer(self) -> Trimmer:
        core = self.core
        return Trimmer(
            self._ledger,
            core.store,
            core.keys,
            core.clock,
            cluster_id=self._parts.settings.cluster_id,
            node_id=core.node_id,
        )

    async def _reach_store(self) -> StoreStatus:
        """Wait until etcd answers."""
        said = False
        while True:
            try:
                return await self._parts.store.status()
            except UnavailableError as error:
                if not said:
                    logger.warning("Waiting for etcd.", extra=fields(error=error.message))
                said = True
                await self._parts.clock.sleep_until(self._parts.clock.now_ns() + STORE_RETRY_NS)

    def _add_services(self, dispatcher: Dispatcher) -> None:
        server, core = self._server, self.core
        clusters = ClustersServicer(
            core, self._parts.settings, self._sealer, followed=self._keys.wait_followed
        )
        control_pb2_grpc.add_ClustersServicer_to_server(clusters, server)
        control_pb2_grpc.add_NodesServicer_to_server(NodesServicer(core), server)
        control_pb2_grpc.add_ServicesServicer_to_server(self._services, server)
        control_pb2_grpc.add_TasksServicer_to_server(self._tasks, server)
        control_pb2_grpc.add_NetworksServicer_to_server(NetworksServicer(core), server)
        self._add_secrets(server)
        self._add_security(server)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(dispatcher, server)
        join_pb2_grpc.add_MembershipServicer_to_server(
            MembershipService(core, self._sealer, issuer=self._issuer), server
        )
        streams_pb2_grpc.add_ContainersServicer_to_server(self._containers, server)
        streams_pb2_grpc.add_NodeStreamsServicer_to_server(self._streams, server)
        diagnostics = DiagnosticsServicer(core, self._streams, Opener(self._sealer))
        streams_pb2_grpc.add_DiagnosticsServicer_to_server(diagnostics, server)
        files = (backup_pb2, control_pb2, dispatcher_pb2, join_pb2, secrets_pb2, security_pb2, streams_pb2)
        names = [each.full_name for file in files for each in file.DESCRIPTOR.services_by_name.values()]
        add_reflection(server, [name for name in names if name != "mini.v1.Join"])

    def _add_secrets(self, server: aio.Server) -> None:
        core = self.core
        audit = SecretAudit(core, self._ledger, cluster_id=self._parts.settings.cluster_id)
        deliveries = DeliveriesServicer(core, self._contents, self._ledger)
        secrets_pb2_grpc.add_DeliveriesServicer_to_server(deliveries, server)
        secrets = SecretsServicer(core, self._contents, audit)
        self._watched.append(secrets)
        secrets_pb2_grpc.add_SecretsServicer_to_server(secrets, server)
        secrets_pb2_grpc.add_ConfigsServicer_to_server(ConfigsServicer(core, self._contents), server)

    def _add_security(self, server: aio.Server) -> None:
        core, sealer = self.core, self._sealer
        security_pb2_grpc.add_JoinTokensServicer_to_server(
            JoinTokensServicer(core, self._parts.settings), server
        )
        security_pb2_grpc.add_ClientCertificatesServicer_to_server(
            ClientCertificatesServicer(core, sealer, managers=self._managers), server
        )
        audit = AuditServicer(
            self._parts.journal, others=self._other_managers, credentials=self._parts.credentials
        )
        security_pb2_grpc.add_AuditServicer_to_server(audit, server)
        root = RootAuthorityServicer(core, sealer)
        security_pb2_grpc.add_RootAuthorityServicer_to_server(root, server)
        keys = EncryptionKeysServicer(core, self._envelope, self._keys)
        self._watched += [root, keys]
        security_pb2_grpc.add_EncryptionKeysServicer_to_server(keys, server)
        security_pb2_grpc.add_LockServicer_to_server(UnlockedServicer(), server)
        backup_pb2_grpc.add_BackupsServicer_to_server(BackupsServicer(self._backups), server)

    async def _listen(self) -> None:
        settings = self._parts.settings
        listen_unix(self._server, self._parts.paths.manager_socket)
        credentials = server_credentials(self._parts.credentials, client_certificate=True)
        self.control_port = listen_tls(
            self._server, f"{settings.listen_host}:{settings.control_port}", credentials
        )
        await self._server.start()
        self.join_port = await self._join.start(f"{settings.listen_host}:{settings.join_port}")

    def _hostname(self, node_id: str) -> str:
        return views.hostname(self.core.cache.snapshot(), node_id) or node_id

    def _other_managers(self) -> dict[str, str]:
        """host:port of the control API of the managers that are not this one, by node id."""
        snapshot = self.core.cache.snapshot()
        return {
            node_id: status.manager_address
            for node_id, status in snapshot.node_statuses.items()
            if status.manager_address and node_id in snapshot.nodes and node_id != self.core.node_id
        }

    def _managers(self) -> list[str]:
        """host:port of the control API of every manager, this one first."""
        settings = self._parts.settings
        return [
            f"{settings.advertise_host}:{self.control_port}",
            *manager_addresses(self.core.cache.snapshot()),
        ]


async def _lead(
    loop: ReconcileLoop,
    sweeper: Sweeper,
    keeper: SecretKeeper,
    ledger: LedgerKeeper,
    upkeep: UpkeepLoop,
    fence: Compare,
) -> None:
    """What the leader does, until it leads no more."""
    async with Supervisor() as group:
        group.start_eternal("reconcile", loop.run(fence))
        group.start_eternal("sweep", sweeper.run(fence))
        group.start_eternal("secrets", keeper.run(fence))
        group.start_eternal("ledger", ledger.run(fence))
        group.start_eternal("upkeep", upkeep.run(fence))
