"""A manager for tests: in this process on a store in memory, or as the real process on a real etcd.

Both speak real gRPC on a unix socket and on loopback with mutual TLS, with certificates of a cluster made for the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minicommon.clock import SECOND, Clock, SystemClock
from minicommon.identity.authority import (
    Authority,
    client_subject,
    issue_with_key,
    new_cluster_root,
    node_subject,
)
from minicommon.identity.keyring import KeyringFile, node_holder
from minicommon.identity.names import Caller
from minicommon.identity.requests import new_request
from minicommon.ids import new_id
from minicommon.paths import NodePaths
from minicommon.rpc.channel import join_channel, manager_channel, unix_channel
from minicommon.rpc.credentials import CredentialFiles, NodeCredentials
from minicommon.rpc.limits import CallLimits
from minicommon.settings import Bootstrap, EtcdSettings, ManagerSettings, write_json
from minimanager.app import Manager, Parts
from minimanager.audit.journal import FileJournal
from minimanager.domain.objects import HOUR
from minimanager.store.envelope import KEY_BYTES
from minimanager.store.memory import MemoryStore
from miniproto.v1 import (
    control_pb2,
    control_pb2_grpc,
    join_pb2,
    join_pb2_grpc,
    objects_pb2,
    secrets_pb2_grpc,
    security_pb2_grpc,
)
from support.ports import free_port
from support.scripted_agent import PATIENCE

START_SECONDS = 30.0
"""Until a manager must serve, on a busy machine."""

HEARTBEAT_NS = 5 * SECOND


@dataclass(frozen=True, slots=True)
class Home:
    """A manager node's directories as `swarm init` leaves them, and the cluster's root to sign with."""

    paths: NodePaths
    settings: ManagerSettings
    root: Authority

    def credentials(self, caller: Caller, name: str, *, cluster_id: str = "") -> NodeCredentials:
        """A certificate for a node or a client, signed by the cluster's root."""
        cluster = cluster_id or self.settings.cluster_id
        if caller.is_node:
            subject = node_subject(name, manager=caller is Caller.MANAGER, cluster_id=cluster)
        else:
            subject = client_subject(name, role=caller, cluster_id=cluster)
        pair = issue_with_key(self.root, subject, now_ns=SystemClock().now_ns())
        return NodeCredentials(pair.key_pem, pair.certificate_pem, self.root.certificate_pem)


@contextlib.contextmanager
def make_home(
    etcd: EtcdSettings, *, control_port: int = 0, join_port: int = 0, heartbeat_ns: int = HEARTBEAT_NS
) -> Iterator[Home]:
    """Write everything that a manager reads at its start. The directory is short: it holds a unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="mini-m-"))
    try:
        yield _fill(
            NodePaths(directory / "data", directory / "run"), etcd, control_port, join_port, heartbeat_ns
        )
    finally:
        shutil.rmtree(directory)


def _fill(paths: NodePaths, etcd: EtcdSettings, control: int, join: int, heartbeat_ns: int) -> Home:
    root = new_cluster_root(SystemClock().now_ns())
    settings = ManagerSettings(
        node_id=new_id(),
        cluster_id=new_id(),
        hostname="core-01",
        advertise_host="127.0.0.1",
        listen_host="127.0.0.1",
        etcd=etcd,
        join_port=join,
        control_port=control,
    )
    home = Home(paths, settings, root)
    paths.swarm_dir.mkdir(parents=True)
    paths.run_dir.mkdir()
    own = home.credentials(Caller.MANAGER, settings.node_id)
    paths.root_ca.write_bytes(root.certificate_pem)
    paths.node_certificate.write_bytes(own.certificate_pem)
    paths.node_key.write_bytes(own.key_pem)
    paths.cluster_key.write_bytes(b"k" * KEY_BYTES)
    write_json(paths.manager_settings, settings)
    write_json(paths.bootstrap, _bootstrap(root, heartbeat_ns))
    return home


def _bootstrap(root: Authority, heartbeat_ns: int) -> Bootstrap:
    return Bootstrap(
        root_ca_pem=root.certificate_pem,
        root_key_pem=root.key_pem,
        default_address_pools=("10.0.0.0/8",),
        subnet_size=24,
        task_history_limit=5,
        heartbeat_period_ns=heartbeat_ns,
        certificate_lifetime_ns=2160 * HOUR,
        availability=0,
    )


class Client:
    """Stubs of the control API on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.clusters = control_pb2_grpc.ClustersStub(channel)
        self.nodes = control_pb2_grpc.NodesStub(channel)
        self.services = control_pb2_grpc.ServicesStub(channel)
        self.tasks = control_pb2_grpc.TasksStub(channel)
        self.networks = control_pb2_grpc.NetworksStub(channel)
        self.secrets = secrets_pb2_grpc.SecretsStub(channel)
        self.configs = secrets_pb2_grpc.ConfigsStub(channel)
        self.deliveries = secrets_pb2_grpc.DeliveriesStub(channel)
        self.membership = join_pb2_grpc.MembershipStub(channel)
        self.tokens = security_pb2_grpc.JoinTokensStub(channel)
        self.clients = security_pb2_grpc.ClientCertificatesStub(channel)
        self.audit = security_pb2_grpc.AuditStub(channel)
        self.root = security_pb2_grpc.RootAuthorityStub(channel)
        self.keys = security_pb2_grpc.EncryptionKeysStub(channel)
        self.lock = security_pb2_grpc.LockStub(channel)
        self.join = join_pb2_grpc.JoinStub(channel)

    async def running(self, ref: str, count: int) -> control_pb2.ServiceProgress:
        """The service's progress once it wants `count` tasks and they run. Raises AioRpcError after PATIENCE."""
        request = control_pb2.WatchServiceRequest(ref=ref)
        call = self.tasks.WatchService(request, timeout=PATIENCE, wait_for_ready=True)
        try:
            async for progress in call:
                if progress.service.running == count and progress.service.desired == count:
                    return progress
        finally:
            call.cancel()
        raise AssertionError("the watch ended")


class Reachable:
    """How a test gets at a running manager. Channels are closed at the end."""

    def __init__(self, home: Home, control_port: int, join_port: int) -> None:
        self.home = home
        self.control_port = control_port
        self.join_port = join_port
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._stack.aclose()

    async def local(self) -> Client:
        """Root on the manager's machine, over the unix socket."""
        return await self._client(unix_channel(self.home.paths.manager_socket))

    async def member(self, caller: Caller, name: str = "", *, cluster_id: str = "") -> Client:
        """A node or a client with a certificate, over mutual TLS."""
        credentials = self.home.credentials(caller, name or new_id(), cluster_id=cluster_id)
        return await self._client(manager_channel(f"127.0.0.1:{self.control_port}", credentials))

    async def joiner(self) -> Client:
        """Somebody without a certificate, at the join port."""
        return await self._client(join_channel(f"127.0.0.1:{self.join_port}", self.home.root.certificate_pem))

    async def join_worker(self) -> tuple[str, Client]:
        """A new worker, joined by token: its node id, and its connection."""
        role = objects_pb2.NODE_ROLE_WORKER
        token = await (await self.local()).clusters.JoinToken(control_pb2.JoinTokenRequest(role=role))
        request = join_pb2.IssueCertificateRequest(
            csr_pem=new_request().csr_pem, token=token.token, hostname="core-02"
        )
        answer = await (await self.joiner()).join.IssueCertificate(request)
        return answer.node_id, await self.member(Caller.WORKER, answer.node_id)

    async def _client(self, channel: grpc.aio.Channel) -> Client:
        return Client(await self._stack.enter_async_context(channel))


class InProcess(Reachable):
    """A manager in this process."""

    def __init__(self, home: Home, manager: Manager, store: MemoryStore) -> None:
        super().__init__(home, manager.control_port, manager.join_port)
        self.manager = manager
        self.store = store


@contextlib.asynccontextmanager
async def manager_in_process(
    *, clock: Clock | None = None, limits: CallLimits | None = None
) -> AsyncIterator[InProcess]:
    """A manager on a store in memory that serves, leads and has its cluster; with `limits` on both its ports."""
    chosen = clock or SystemClock()
    with make_home(EtcdSettings(("memory",))) as home:
        store = MemoryStore(clock=chosen)
        parts = Parts(
            settings=home.settings,
            store=store,
            keyring=KeyringFile(home.paths.cluster_key).open(node_holder(home.paths.node_key.read_bytes())),
            paths=home.paths,
            credentials=CredentialFiles(home.paths),
            journal=FileJournal(home.paths.audit_dir, manager=home.settings.node_id),
            clock=chosen,
            ledger_anchor=home.paths.ledger_anchor,
            control_limits=limits,
            join_limits=limits,
        )
        manager, stop = Manager(parts), asyncio.Event()
        running = asyncio.create_task(manager.run(stop))
        serving = asyncio.create_task(manager.serving.wait())
        try:
            await asyncio.wait((running, serving), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            async with InProcess(home, manager, store) as reachable:
                yield reachable
        finally:
            stop.set()
            await running
            serving.cancel()


class ManagerProcess(Reachable):
    """The real `mini-manager`, which a test may stop, kill and start again on the same directories."""

    def __init__(self, home: Home) -> None:
        super().__init__(home, home.settings.control_port, home.settings.join_port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the manager has written so far."""
        return (self.home.paths.data_dir / "manager.log").read_text()

    async def start(self) -> None:
        """Start it, and return when it serves."""
        self.spawn()
        await self.until_serving()

    def spawn(self) -> None:
        """Start it, whether it will serve or wait for a key."""
        paths = self.home.paths
        command = [
            *(sys.executable, "-m", "minimanager.main"),
            *("--data-dir", str(paths.data_dir), "--run-dir", str(paths.run_dir)),
        ]
        with (paths.data_dir / "manager.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    async def stop(self) -> int:
        """Ask it to stop, and give its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        code = await asyncio.to_thread(self._process.wait, START_SECONDS)
        self._process = None
        return code

    def kill(self) -> None:
        """Power off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def until_serving(self) -> None:
        """Return when it serves. Raises RuntimeError when it does not."""
        async with (
            asyncio.timeout(START_SECONDS),
            unix_channel(self.home.paths.manager_socket) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                    break
                except grpc.aio.AioRpcError as error:
                    # One that was locked makes room for the one that serves.
                    if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                        raise
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"the manager answers but does not serve:\n{self.log}")


@contextlib.asynccontextmanager
async def manager_process(
    etcd: EtcdSettings, *, heartbeat_ns: int = HEARTBEAT_NS
) -> AsyncIterator[ManagerProcess]:
    """A started `mini-manager` with a new cluster; gone at the end, whatever the test did to it."""
    ports = free_port(), free_port()
    with make_home(etcd, control_port=ports[0], join_port=ports[1], heartbeat_ns=heartbeat_ns) as home:
        async with ManagerProcess(home) as process:
            try:
                await process.start()
                yield process
            finally:
                process.kill()
