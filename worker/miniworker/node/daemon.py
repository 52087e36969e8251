"""The daemon: which cluster the node is in, and the ways in and out of one."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import grpc
from minicommon import __version__
from minicommon.backup_file import Backup
from minicommon.clock import SECOND
from minicommon.errors import (
    DeadlineError,
    FailedPreconditionError,
    MiniError,
    UnavailableError,
)
from minicommon.log import fields
from minicommon.rpc.channel import unix_channel
from minicommon.rpc.errors import ours
from miniproto.v1 import (
    control_pb2,
    control_pb2_grpc,
    join_pb2,
    join_pb2_grpc,
    objects_pb2,
    security_pb2,
    security_pb2_grpc,
)
from miniproto.v1 import node_pb2 as pb

from miniworker.agent.streams.api import Handlers
from miniworker.node import proxy
from miniworker.node.addresses import choose_advertised, host_addresses, source_address, split_port
from miniworker.node.certificates import CertificateFiles
from miniworker.node.children import stop_leftovers
from miniworker.node.etcd import etcd_version
from miniworker.node.health import wait_serving
from miniworker.node.init import InitPlan, check_ports_free, plan_init
from miniworker.node.joining import request_membership, stage_worker
from miniworker.node.member import Member, Site
from miniworker.node.membership import Membership, StagedMembership, load_membership, save_membership
from miniworker.node.pki import stage_manager, stage_restored
from miniworker.node.restoring import plan_restore, received

logger = logging.getLogger(__name__)

START_NS = 50 * SECOND
"""How long a new cluster's manager may take until it is ready: less than any call on the socket may take."""

JOIN_NS = 20 * SECOND
"""moby `daemon/cluster/cluster.go`, swarmConnectTimeout: after this, joining goes on in the background."""

UNLOCK_SECONDS = 20.0
"""How long a manager that has just been started may take to ask for its key."""

LEAVE_SECONDS = 5.0
"""How long a node that leaves waits for the manager to take note."""

ALREADY_MEMBER = (
    "This node is already part of a swarm. "
    'Use "minictl swarm leave" to leave this swarm and join another one.'
)
NOT_A_MEMBER = "This node is not part of a swarm"
NOT_A_MANAGER = "This node is not a swarm manager: it has nothing to unlock"
JOIN_TIMED_OUT = (
    "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. "
    'Use the "minictl info" command to see the current swarm status of your node.'
)
LAST_MANAGER = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
    "Removing the last manager erases all current state of a swarm. Use `--force` to ignore this message."
)


class NodeDaemon:
    """One life-changing call runs at a time; `info` is always answered."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._changing = asyncio.Lock()
        self._pending = ""
        self._member: Member | None = None
        self._running: asyncio.Task[None] | None = None
        self._manager_channel: grpc.aio.Channel | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets an exception when a part ended that must run for ever: the process should end too."""

    async def resume(self) -> None:
        """Take up the membership that the last daemon left; clear away what is not one."""
        paths = self._site.paths
        if membership := load_membership(paths):
            if membership.managed_etcd:
                self._site = replace(self._site, etcd_version=await etcd_version())
            self._begin(membership)
            return
        if paths.swarm_dir.exists():
            logger.warning("Clearing away a membership that was never completed.")
            await stop_leftovers(paths.run_dir, clock=self._site.clock)
            await self._site.open_data_plane().clear()
            paths.dns_table.unlink(missing_ok=True)
            await asyncio.to_thread(shutil.rmtree, paths.swarm_dir)

    async def close(self, *, stop_all: bool) -> None:
        """End the daemon's own work; with `stop_all` containers and children too, but the node stays a member."""
        member = await self._halt()
        if member and stop_all:
            await member.evict()
            await member.stop_children()

    # --- the LocalNode service ---

    def info(self) -> pb.LocalInfo:
        info = pb.LocalInfo(version=__version__, description=self._site.description)
        member = self._member
        if member is None:
            info.state = pb.LOCAL_STATE_PENDING if self._pending else pb.LOCAL_STATE_INACTIVE
            info.message = self._pending
            return info
        membership, connected = member.membership, member.agent.session.connected
        info.state = pb.LOCAL_STATE_ACTIVE if connected and not self._pending else pb.LOCAL_STATE_PENDING
        info.message = self._pending or member.problem
        if membership.is_manager and self._site.paths.locked.exists():
            info.state = pb.LOCAL_STATE_LOCKED
        info.node_id = membership.node_id
        info.cluster_id = membership.cluster_id
        info.role = objects_pb2.NODE_ROLE_MANAGER if membership.is_manager else objects_pb2.NODE_ROLE_WORKER
        info.advertise_address = membership.advertise_host
        info.managers.extend(member.agent.managers)
        info.children.extend(member.describe_children())
        info.connected = connected
        info.certificate_expires_at_ns = member.credentials.expires_at_ns()
        return info

    async def init(self, request: pb.InitRequest) -> pb.InitResponse:
        async with self._changing:
            self._refuse_member()
            config = self._site.config
            plan = plan_init(
                request,
                hostname=config.hostname,
                default_listen=config.listen_address,
                host=await host_addresses(),
            )
            if plan.external_etcd is None:
                self._site = replace(self._site, etcd_version=await etcd_version())
            check_ports_free(plan)
            self._pending = "starting a new cluster"
            try:
                return await self._found(plan)
            except BaseException:
                await self._undo()
                raise
            finally:
                self._pending = ""

    async def restore(self, options: pb.RestoreOptions, content: AsyncIterator[bytes]) -> pb.RestoreResponse:
        """Be the only manager of the cluster in a backup. Raises MiniError; then nothing has changed."""
        async with self._changing:
            self._refuse_member()
            self._pending = "restoring a cluster"
            try:
                backup = await received(content, options.key, self._site.paths.data_dir)
                config = self._site.config
                plan = plan_restore(
                    options,
                    backup,
                    hostname=config.hostname,
                    default_listen=config.listen_address,
                    host=await host_addresses(),
                )
                self._site = replace(self._site, etcd_version=await etcd_version())
                check_ports_free(plan)
                try:
                    made = await self._found(plan, backup)
                except BaseException:
                    await self._undo()
                    raise
            finally:
                self._pending = ""
        manifest = backup.manifest
        return pb.RestoreResponse(
            node_id=plan.node_id,
            cluster_id=plan.cluster_id,
            created_at_ns=manifest.created_at_ns,
            entries=len(backup.entries),
            worker_token=made.worker_token,
            join_address=made.join_address,
            former_address=f"{manifest.advertise_host}:{manifest.join_port}",
        )

    async def join(self, request: pb.JoinClusterRequest) -> pb.JoinClusterResponse:
        async with self._changing:
            self._refuse_member()
            self._pending = "joining a cluster"
            try:
                member = await self._enter(request)
            finally:
                self._pending = ""
        try:
            await self._within(JOIN_NS, member.agent.wait_synced())
        except DeadlineError:
            raise DeadlineError(JOIN_TIMED_OUT) from None
        logger.info("Joined a cluster.", extra=fields(node_id=member.membership.node_id))
        return pb.JoinClusterResponse(node_id=member.membership.node_id, role=objects_pb2.NODE_ROLE_WORKER)

    async def unlock(self, key: str) -> None:
        """Give the manager its unlock key, and etcd its own keys, which are beside it. Raises MiniError."""
        member = self._member
        if member is None or not member.membership.is_manager:
            raise FailedPreconditionError(NOT_A_MANAGER)
        await member.unlock(key)
        async with unix_channel(self._site.paths.manager_socket) as channel:
            with ours():
                await security_pb2_grpc.LockStub(channel).Unlock(
                    security_pb2.UnlockRequest(key=key), wait_for_ready=True, timeout=UNLOCK_SECONDS
                )
        await self._within(START_NS, self._serving(member))

    async def leave(self, *, force: bool) -> None:
        async with self._changing:
            member = self._member
            if member is None:
                raise FailedPreconditionError(NOT_A_MEMBER)
            if member.membership.is_manager and not force:
                raise FailedPreconditionError(LAST_MANAGER)
            self._pending = "leaving the cluster"
            try:
                await self._halt()
                if not member.membership.is_manager:
                    await self._take_leave(member.credentials, member.agent.managers)
                await self._evict(member)
                await member.stop_children()
                await asyncio.to_thread(shutil.rmtree, self._site.paths.swarm_dir)
            finally:
                self._pending = ""
            logger.info("Left the cluster.", extra=fields(node_id=member.membership.node_id))

    def is_worker(self) -> bool:
        """Whether this node is a member without a manager of its own."""
        return self._member is not None and not self._member.membership.is_manager

    def answers(self) -> Handlers:
        """What the node answers about its own containers; nothing while it is no member."""
        return self._member.agent.answers if self._member is not None else {}

    def upstream(self) -> grpc.aio.Channel | str:
        """Where the control API is, for the proxy; or why it is not here."""
        if self._member is None:
            return proxy.NOT_A_MEMBER
        if not self._member.membership.is_manager:
            return proxy.NOT_A_MANAGER
        if self._manager_channel is None:
            self._manager_channel = unix_channel(self._site.paths.manager_socket)
        return self._manager_channel

    # --- inside ---

    def _refuse_member(self) -> None:
        if self._member is not None:
            raise FailedPreconditionError(ALREADY_MEMBER)

    async def _found(self, plan: InitPlan, backup: Backup | None = None) -> pb.InitResponse:
        """Make the first node of a new cluster, or of the one in the backup."""
        paths, clock = self._site.paths, self._site.clock
        stage = StagedMembership(paths)
        if backup is None:
            membership = stage_manager(stage, plan, paths, clock=clock)
        else:
            membership = stage_restored(stage, plan, backup, paths, clock=clock)
        stage.commit()
        member = self._begin(membership)
        await self._first_start(member)
        token = await self._worker_token()
        save_membership(paths, membership)
        what = "A new cluster was made." if backup is None else "A cluster was restored."
        logger.info(what, extra=fields(node_id=plan.node_id, cluster_id=plan.cluster_id))
        return pb.InitResponse(node_id=plan.node_id, worker_token=token, join_address=plan.join_address)

    async def _first_start(self, member: Member) -> None:
        """Wait until the manager is ready and the agent has its session.

        Raises UnavailableError at once when a child dies on the way, DeadlineError with all their logs in the end.
        """
        waits = [asyncio.create_task(self._serving(member))]
        waits += [asyncio.create_task(child.wait_death()) for child in member.children]
        try:
            await self._within(START_NS, _first(waits))
        except DeadlineError:
            tails = "\n".join(f"{child.spec.name}: {child.log_tail()}" for child in member.children)
            raise DeadlineError(
                f"the new manager was not ready after {START_NS // SECOND} s\n{tails}"
            ) from None
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _serving(self, member: Member) -> None:
        await wait_serving(self._site.paths.manager_socket)
        member.agent.hurry()
        await member.agent.wait_synced()

    async def _worker_token(self) -> str:
        async with unix_channel(self._site.paths.manager_socket) as channel:
            try:
                answer = await control_pb2_grpc.ClustersStub(channel).JoinToken(
                    control_pb2.JoinTokenRequest(role=objects_pb2.NODE_ROLE_WORKER)
                )
            except grpc.aio.AioRpcError as error:
                raise UnavailableError(
                    f"the new manager did not give a join token: {error.details()}"
                ) from error
        return answer.token

    async def _enter(self, request: pb.JoinClusterRequest) -> Member:
        """Become a worker of the cluster, or leave no trace."""
        given, _ = split_port(request.advertise_address, field="advertise address")
        joined = await request_membership(
            request, hostname=self._site.config.hostname, clock=self._site.clock
        )
        paths = self._site.paths
        stage = StagedMembership(paths)
        try:
            if given:
                advertised = choose_advertised(given, await host_addresses())
            else:
                advertised = source_address(joined.managers[0].rpartition(":")[0])
            membership = stage_worker(stage, joined, advertise_host=advertised)
            stage.commit()
            return self._begin(membership)
        except BaseException:
            await self._take_leave(CertificateFiles(stage.paths), joined.managers)
            stage.discard()
            await self._undo()
            raise

    async def _take_leave(self, credentials: CertificateFiles, managers: tuple[str, ...]) -> None:
        """Tell a manager that the node is gone. It finds out by itself otherwise, only later."""
        for address in managers:
            try:
                async with credentials.dial(address) as channel:
                    await join_pb2_grpc.MembershipStub(channel).Leave(
                        join_pb2.LeaveRequest(), timeout=LEAVE_SECONDS
                    )
                return
            except (grpc.aio.AioRpcError, OSError, MiniError) as error:
                logger.warning(
                    "The manager could not be told that this node leaves.",
                    extra=fields(manager=address, error=error),
                )

    def _begin(self, membership: Membership) -> Member:
        self._site.paths.log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        member = Member(membership, self._site)
        self._member = member
        self._running = asyncio.create_task(member.run(), name="member")
        self._running.add_done_callback(self._ended)
        return member

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self.failed.done():
            self.failed.set_exception(task.exception() or RuntimeError("the member ended by itself"))

    async def _halt(self) -> Member | None:
        """Stop our own work; what we started goes on."""
        member, self._member = self._member, None
        running, self._running = self._running, None
        if running:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if self._manager_channel:
            channel, self._manager_channel = self._manager_channel, None
            await channel.close()
        return member

    async def _undo(self) -> None:
        """Back to no membership at all."""
        if member := await self._halt():
            await self._evict(member)
            await member.stop_children()
        await asyncio.to_thread(shutil.rmtree, self._site.paths.swarm_dir, ignore_errors=True)

    async def _evict(self, member: Member) -> None:
        """Nothing of ours stays in the kernel; what resists is logged, for leaving must not depend on it."""
        try:
            await member.evict()
        except MiniError as error:
            logger.error("Not everything could be removed from this machine.", extra=fields(error=error))

    async def _within(self, limit_ns: int, work: Coroutine[Any, Any, None]) -> None:
        """Raises DeadlineError when `work` takes longer."""
        clock = self._site.clock
        task = asyncio.create_task(work)
        timer = asyncio.ensure_future(clock.sleep_until(clock.now_ns() + limit_ns))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise DeadlineError(f"not done within {limit_ns // SECOND} s")
            await task
        finally:
            timer.cancel()
            task.cancel()


async def _first(tasks: list[asyncio.Task[None]]) -> None:
    """The outcome of whichever ends first."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        await task
