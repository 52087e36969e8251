"""The agent put together: takes assignments in, keeps a runner per task, and tells how far each has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random

from minicommon.clock import Clock
from minicommon.errors import MiniError
from minicommon.log import fields
from minicommon.supervise import Supervisor
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2
from miniproto.v1 import objects_pb2 as pb
from miniproto.v1 import streams_pb2 as streams

from miniworker.agent.assignments import AssignmentSet, Change
from miniworker.agent.content_files import ContentFiles
from miniworker.agent.deliveries import Deliveries, Sign
from miniworker.agent.disconnection import Disconnection
from miniworker.agent.draining import Drain
from miniworker.agent.encryption import KEY_PERIOD_NS, EncryptionKeys
from miniworker.agent.executor import ContainerExecutor
from miniworker.agent.follower import Follower
from miniworker.agent.health.monitor import Monitor
from miniworker.agent.health.probes import Prober
from miniworker.agent.hooks.allowed import AllowedHook
from miniworker.agent.hooks.chain import HookChain
from miniworker.agent.hooks.sandbox import SandboxHook
from miniworker.agent.hooks.secrets import SecretsHook
from miniworker.agent.ingress_client import IngressTables, IngressWant
from miniworker.agent.logins import Logins
from miniworker.agent.reporter import Reporter
from miniworker.agent.session import Dial, Session, SessionState
from miniworker.agent.state import AgentState
from miniworker.agent.statuses import from_status, to_status
from miniworker.agent.streams.network import assignments_told
from miniworker.agent.streams.registry import handlers
from miniworker.agent.streams.server import StreamServer
from miniworker.agent.task_machine import Progress
from miniworker.agent.task_runner import TaskRunner
from miniworker.network.api import DataPlane, Fabric
from miniworker.runtime.api import Images, NoSuchContainerError, Runtime, RuntimeFaultError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who the agent is for the cluster."""

    node_id: str
    data_path_address: IPv4Address
    description: pb.NodeDescription
    manager_address: str = ""
    """host:port of this node's control API, when it is a manager."""
    allowed: frozenset[str] = frozenset()
    """Of GRANTS: what containers may have of the node."""
    key_period_ns: int = KEY_PERIOD_NS
    """How long a key for encrypted networks is used."""


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What the agent works with."""

    runtime: Runtime
    images: Images
    data_plane: DataPlane
    ingress: IngressTables
    state: AgentState
    dial: Dial
    clock: Clock
    random: Random
    contents: ContentFiles
    sign: Sign
    """With the key of the node's certificate."""
    certificate: Callable[[], dispatch.NodeCertificate] = dispatch.NodeCertificate
    """The certificate in use."""
    trust: Callable[[dispatch.Trust], None] = lambda _: None
    """Takes what the cluster wants of it."""


class Agent:
    """`run` until it is cancelled; containers go on without it. `evict` ends them."""

    def __init__(self, identity: AgentIdentity, parts: AgentParts, *, managers: tuple[str, ...]) -> None:
        self._identity = identity
        self._parts = parts
        self._reporter = Reporter()
        self._runners: dict[str, TaskRunner] = {}
        self._stored_statuses: Mapping[str, pb.TaskStatus] = {}
        self._assignments = AssignmentSet()
        self._disconnection = Disconnection(self._runners.values, parts.clock)
        self._managers = managers
        self._group = Supervisor()
        self._synced = asyncio.Event()
        self._fabric: Follower[Fabric] = Follower(
            "networks", parts.data_plane.set_fabric, clock=parts.clock, done=self._applied
        )
        self._ingress: Follower[IngressWant] = Follower(
            "ingress", parts.ingress.apply, clock=parts.clock, done=self._applied
        )
        self._logins = Logins()
        self.answers = handlers(
            parts.runtime, parts.images, parts.data_plane, parts.clock, self._network_state
        )
        """To questions about this node's containers."""
        self._streams = StreamServer(self.answers, parts.dial)
        self._session = Session(
            self,
            self._reporter,
            managers=lambda: self._managers,
            dial=parts.dial,
            clock=parts.clock,
            random=parts.random,
        )
        deliveries = Deliveries(
            self._session.channel,
            parts.sign,
            revision=lambda: self._assignments.revision,
            spawn=self._group.start,
            clock=parts.clock,
        )
        hooks = (
            AllowedHook(identity.allowed),
            SandboxHook(parts.data_plane, self),
            SecretsHook(parts.contents, deliveries),
        )
        self._executor = ContainerExecutor(
            parts.runtime,
            HookChain(hooks),
            Monitor(Prober(parts.runtime, parts.data_plane), parts.clock),
            Drain(parts.data_plane, parts.clock),
            clock=parts.clock,
            node_id=identity.node_id,
            logins=self._logins,
        )

        self._keys = EncryptionKeys(
            parts.data_plane,
            self._reporter,
            clock=parts.clock,
            period_ns=identity.key_period_ns,
            connected=lambda: self._session.state.connected,
        )

    @property
    def session(self) -> SessionState:
        return self._session.state

    @property
    def problem(self) -> str:
        """What keeps the node from doing its work; empty when nothing does."""
        return self._session.state.problem or self._fabric.problem or self._ingress.problem

    @property
    def managers(self) -> tuple[str, ...]:
        return self._managers

    def hurry(self) -> None:
        """A manager has just become ready: try now."""
        self._session.hurry()

    def certificate_changed(self) -> None:
        """The manager should know of the new one."""
        if self._session.state.connected:
            self._reporter.certificate(self._parts.certificate())

    async def wait_synced(self) -> None:
        """Return once a manager has told the complete set for the first time."""
        await self._synced.wait()

    async def run(self) -> None:
        try:
            async with self._group as group:
                await self._restore()
                await self._keys.load()
                group.start_eternal("encryption keys", self._keys.run())
                group.start_eternal("fabric", self._fabric.run())
                group.start_eternal("network check", self._parts.data_plane.watch())
                group.start_eternal("ingress table", self._ingress.run())
                group.start_eternal("ingress watch", self._parts.ingress.watch(self._ingress.again))
                group.start_eternal("session", self._session.run())
                group.start_eternal("disconnection", self._disconnection.run())
                group.start("strays", self._remove_strays())
        finally:
            await self._streams.close()

    async def evict(self) -> None:
        """Stop and remove every container and everything in the kernel: the node leaves.

        All of it is tried. Raises one RuntimeFaultError that names what failed.
        """
        containers = await self._parts.runtime.list()
        outcomes = await asyncio.gather(
            *(self._evict(container.id) for container in containers), return_exceptions=True
        )
        outcomes += await asyncio.gather(
            self._parts.data_plane.clear(),
            asyncio.to_thread(self._parts.contents.clear),
            return_exceptions=True,
        )
        problems = [outcome for outcome in outcomes if outcome is not None]
        for problem in problems:
            if not isinstance(problem, MiniError):
                raise problem
        if problems:
            raise RuntimeFaultError("; ".join(str(problem) for problem in problems))

    async def wait_for_networks(self, network_ids: frozenset[str]) -> None:
        """Return once all of them are in the kernel: what the sandbox hook waits for."""
        await self._fabric.wait_for(lambda fabric: network_ids <= _network_ids(fabric))

    async def wait_for_names(self, task_id: str) -> None:
        """Return once the node's DNS server knows the task, if it is on a network with names."""
        if _may_ask(self._assignments.dns(), task_id):
            await self._ingress.wait_for(lambda want: want is not None and _may_ask(want.dns, task_id))

    # --- what the session says ---

    def hello(self) -> dispatch.Hello:
        return dispatch.Hello(
            description=self._identity.description,
            data_path_address=str(self._identity.data_path_address),
            manager_address=self._identity.manager_address,
            certificate=self._parts.certificate(),
            encryption_key=self._keys.announced.current,
            next_encryption_key=self._keys.announced.next,
        )

    def welcome(self, welcome: dispatch.Welcome) -> None:
        managers = tuple(sorted(welcome.managers))
        if managers and managers != self._managers:
            self._managers = managers
            self._parts.state.save_managers(managers)

    def trust(self, trust: dispatch.Trust) -> None:
        self._parts.trust(trust)

    def assignments(self, message: dispatch.Assignments) -> None:
        self._logins.take(message)
        change = self._assignments.apply(message)
        self._parts.state.save_assignments(change.changed, change.removed)
        self._update_tasks(change)
        self._follow()
        if message.complete:
            self._synced.set()
            self._disconnection.found()

    def lost(self) -> None:
        self._disconnection.lost()

    def dial(self, manager: str, dial: streams.Dial) -> None:
        self._streams.open(manager, dial)

    # --- inside ---

    async def _restore(self) -> None:
        """Take up the work where the last process left it."""
        stored = self._parts.state.load()
        self._assignments = AssignmentSet(stored.assignments)
        self._stored_statuses = stored.statuses
        self._managers = stored.managers or self._managers
        tasks = tuple(self._assignments.tasks())
        task_ids = frozenset(task.id for task in tasks)
        await self._parts.data_plane.adopt(task_ids)
        await asyncio.to_thread(self._parts.contents.adopt, task_ids)
        if stored.assignments:
            self._follow()
        for task in tasks:
            self._start(task)
        if tasks:
            logger.info("Tasks of the last run taken up.", extra=fields(tasks=len(tasks)))

    def _follow(self) -> None:
        identity, revision = self._identity, self._assignments.revision
        fabric = self._assignments.fabric(
            node_id=identity.node_id, data_path_address=identity.data_path_address
        )
        self._fabric.want(fabric, revision)
        self._ingress.want(IngressWant(self._assignments.ports(), self._assignments.dns()), revision)

    def _network_state(self) -> streams.NetworkCheck:
        """What the node was told of its network, and how far it follows."""
        return streams.NetworkCheck(
            revision=self._assignments.revision,
            applied_revision=min(self._fabric.applied_revision, self._ingress.applied_revision),
            problem=self._fabric.problem or self._ingress.problem,
            told=assignments_told(self._assignments.items()),
        )

    def _applied(self) -> None:
        self._reporter.applied(min(self._fabric.applied_revision, self._ingress.applied_revision))

    def _update_tasks(self, change: Change) -> None:
        for item in change.changed.values():
            if item.HasField("task"):
                self._update_task(item.task)
        for task_id in [task_id for task_id in self._runners if not self._assignments.has_task(task_id)]:
            self._unassigned(task_id)
        for key in change.removed:
            kind, _, task_id = key.partition("/")
            if kind == "kept" and task_id not in self._runners:
                self._group.start(f"remains of {task_id}", self._discard(task_id))

    def _update_task(self, task: dispatch.AssignedTask) -> None:
        if runner := self._runners.get(task.id):
            runner.connect(task)
            runner.want(task.desired_state, withdrawn=task.withdrawn)
        else:
            self._start(task)

    def _unassigned(self, task_id: str) -> None:
        """The manager has forgotten the task or knows its end: nobody wants to hear of it; its remains go or stay."""
        self._reporter.forget(task_id)
        runner = self._runners[task_id]
        if self._assignments.keeps(task_id):
            runner.want(pb.TASK_STATE_SHUTDOWN, withdrawn=True)
            return
        runner.want(pb.TASK_STATE_REMOVE, withdrawn=True)
        if runner.progress.removed:
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._logins.forget(task_id)
        del self._runners[task_id]
        self._parts.state.forget_status(task_id)

    def _start(self, task: dispatch.AssignedTask) -> None:
        stored = self._stored_statuses.get(task.id)
        progress = from_status(stored) if stored else Progress()
        if stored:
            self._reporter.put(stored)
        runner = TaskRunner(
            task,
            progress,
            executor=self._executor,
            report=self._report,
            clock=self._parts.clock,
            restored=stored is not None,
        )
        self._runners[task.id] = runner
        self._group.start(f"task {task.id}", self._run(task.id, runner))

    async def _run(self, task_id: str, runner: TaskRunner) -> None:
        await runner.run()
        if not self._assignments.has_task(task_id):
            self._forget(task_id)

    def _report(self, task_id: str, progress: Progress) -> None:
        status = to_status(
            task_id, progress, node_id=self._identity.node_id, since_ns=self._parts.clock.now_ns()
        )
        self._parts.state.save_status(status)
        if self._assignments.has_task(task_id):
            self._reporter.put(status)

    async def _remove_strays(self) -> None:
        """Containers that nobody wants any more: known only once the manager has told the complete set."""
        await self._synced.wait()
        for container in await self._parts.runtime.list():
            if container.id not in self._runners and not self._assignments.keeps(container.id):
                logger.info("Removing a container that is not assigned.", extra=fields(task_id=container.id))
                await self._discard(container.id)

    async def _discard(self, task_id: str) -> None:
        """The container of a task that ended before this process began, or that nobody wants."""
        try:
            await self._evict(task_id)
        except MiniError as error:
            logger.error("A container could not be removed.", extra=fields(task_id=task_id, error=error))
        self._parts.state.forget_status(task_id)

    async def _evict(self, task_id: str) -> None:
        try:
            await self._parts.runtime.stop(task_id)
        except NoSuchContainerError:
            return
        await self._parts.runtime.remove(task_id)
        await self._parts.data_plane.detach(task_id)
        await asyncio.to_thread(self._parts.contents.forget, task_id)


def _network_ids(fabric: Fabric | None) -> frozenset[str]:
    return frozenset(network.id for network in fabric.networks) if fabric else frozenset()


def _may_ask(dns: ingress_pb2.DnsTable, task_id: str) -> bool:
    return any(client.task_id == task_id for client in dns.clients)
