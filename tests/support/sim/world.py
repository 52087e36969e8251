"""A cluster on virtual time: managers, nodes, one store, and a watcher who sees every revision."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from minicommon.errors import MiniError
from minimanager.decide.actions import Decision
from minimanager.decide.reconcile import everything
from minimanager.decide.reconcile import reconcile as decide
from minimanager.domain.objects import (
    Cluster,
    ClusterSpec,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from minimanager.store.writer import Writer
from support.sim.agents import Agent, Power
from support.sim.guarantees import Decided, all_guarantees
from support.sim.history import History, Moment
from support.sim.managers import Manager
from support.sim.placement import forbidden
from support.sim.virtual_time import VirtualTime

MANAGERS = ("manager-1", "manager-2", "manager-3")
ZONES = ("a", "b", "c")
DIAL_SECONDS = 5.0
"""After which a node tries another manager."""

INGRESS = Network(
    "ingress", spec=NetworkSpec(name="ingress", ingress=True), subnet="10.0.0.0/16", gateway="10.0.0.1"
)
KEYS = Keys("sim")


class BrokenError(AssertionError):
    """A guarantee did not hold."""


def _as_it_is(snapshot: Snapshot) -> Snapshot:
    return snapshot


class World:
    """`trace` gets a line for each thing that happens to the cluster."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        clock: VirtualTime,
        history_limit: int,
        fenced: bool = True,
        misread: Callable[[Snapshot], Snapshot] = _as_it_is,
    ) -> None:
        """Without `fenced`, and with leaders that `misread` what they see, guarantees are to be broken."""
        self._misread = misread
        self.when_decided: Callable[[Manager], None] | None = None
        """Called once, with the leader, between its next decision that asks for something and the writing of it."""
        self.seed = seed
        self.clock = clock
        self.dice = Random(f"{seed}/world")
        self.store = MemoryStore(clock=clock)
        self.history = History(KEYS, INGRESS.id)
        self.decided = Decided()
        self.guarantees = all_guarantees(self.decided)
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trace: list[str] = []
        self.agents: dict[str, Agent] = {}
        self.history_limit = history_limit
        self._numbers = itertools.count(1)
        self._background: set[asyncio.Task[None]] = set()
        self._size = nodes
        self.managers = [
            Manager(
                name,
                self.store,
                KEYS,
                clock=clock,
                dice=Random(f"{seed}/{name}"),
                ids=self.new_id,
                fenced=fenced,
            )
            for name in MANAGERS
        ]

    def new_id(self) -> str:
        """Ids in the order in which they are given out, so that histories can be read."""
        return f"id{next(self._numbers):06}"

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock.passed_seconds:9.3f} s  {text}")

    # --- beginning and end ---

    async def start(self) -> None:
        writer = Writer(self.store, KEYS)
        spec = ClusterSpec(task_history_limit=self.history_limit)
        await writer.commit_all(writer.begin().create(obj) for obj in (Cluster("sim", spec=spec), INGRESS))
        self.background("watcher", self._see_everything())
        for manager in self.managers:
            await self.start_manager(manager)
        for _ in range(self._size):
            await self.join()
        self.background("keep connected", self._keep_connected())

    async def start_manager(self, manager: Manager) -> None:
        await manager.start(partial(self.reconcile, manager), self.deliver)

    async def stop(self) -> None:
        for manager in self.managers:
            await manager.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.store.close()

    def background(self, name: str, work: object) -> None:
        """Run `work` until the end; an error in it breaks the story."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    # --- nodes ---

    async def join(self) -> str:
        """A new machine; its zone is among its labels."""
        node_id = f"node{next(self._numbers):06}"
        number = len(self.agents)
        zone = ZONES[number % len(ZONES)]
        address = f"10.0.{200 + number // 250}.{number % 250 + 2}"
        node = Node(node_id, spec=NodeSpec(labels={"zone": zone}), ingress_address=address)
        writer = Writer(self.store, KEYS)
        await writer.commit(writer.begin().create(node).claim(KEYS.address(INGRESS.id, address), node_id))
        self.agents[node_id] = Agent(node_id, self.seed, self.clock, zone)
        await self._connect(self.agents[node_id])
        return node_id

    async def _connect(self, agent: Agent) -> None:
        serving = [manager for manager in self.managers if manager.alive]
        if serving:
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    await agent.connect(self.dice.choice(serving))
            except (MiniError, TimeoutError):
                self.note(f"{agent.node_id} could not connect")

    async def _keep_connected(self) -> None:
        """Whoever has lost its manager looks for another one."""
        while True:
            await self.clock.sleep(1.0)
            for agent in list(self.agents.values()):
                if agent.power is Power.ON and not agent.connected:
                    await self._connect(agent)

    def deliver(self, node_id: str, snapshot: Snapshot) -> None:
        agent = self.agents.get(node_id)
        if agent is not None and agent.connected and agent.session is not None:
            own = agent.session.manager.core.cache.snapshot()
            if own is snapshot:
                agent.refresh(snapshot)

    # --- watching ---

    def reconcile(
        self,
        manager: Manager,
        snapshot: Snapshot,
        dirty: frozenset[str],
        now_ns: int,
        new_id: Callable[[], str],
    ) -> Decision:
        decision = decide(self._misread(snapshot), dirty, now_ns, new_id)
        self.decided.add(snapshot, decision)
        for wrong in forbidden(snapshot, decision):
            self._break(BrokenError(f"OnlyWhereItMayBe: {wrong}"))
        if decision.actions and self.when_decided is not None:
            act, self.when_decided = self.when_decided, None
            act(manager)
        return decision

    async def _see_everything(self) -> None:
        async for batch in self.store.watch(KEYS.prefix, after=0):
            for revision, events in itertools.groupby(batch.events, key=lambda event: event.revision):
                moment = self.history.fold(revision, events, self.clock.now_ns())
                self._check(moment)

    def _check(self, moment: Moment) -> None:
        for guarantee in self.guarantees:
            for wrong in guarantee.at(moment):
                name = type(guarantee).__name__
                raise BrokenError(f"{name} at revision {moment.revision}: {wrong}")

    async def wait(self, seconds: float) -> None:
        """Let time pass. Raises what has broken meanwhile."""
        sleeping = asyncio.ensure_future(self.clock.sleep(seconds))
        try:
            await asyncio.wait({sleeping, self.broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
        if self.broken.done():
            self.broken.result()
        for manager in self.managers:
            if manager.ended is not None:
                raise manager.ended

    def undecided(self) -> tuple[str, ...]:
        """What a leader would still do, on the present state."""
        snapshot = self.snapshot()
        decision = decide(snapshot, everything(snapshot), self.clock.now_ns(), lambda: "never")
        return tuple(str(action) for action in decision.actions)

    def snapshot(self) -> Snapshot:
        """The present state of the store."""
        state = self.history.state
        by_service: dict[str, dict[str, object]] = {}
        by_node: dict[str, dict[str, object]] = {}
        by_network: dict[str, dict[str, object]] = {}
        for task in state.tasks.values():
            by_service.setdefault(task.service_id, {})[task.id] = task
            by_node.setdefault(task.node_id, {})[task.id] = task
            for attachment in task.attachments:
                by_network.setdefault(attachment.network_id, {})[task.id] = task
        return Snapshot(
            cluster=replace(Cluster("sim"), spec=ClusterSpec(task_history_limit=self.history_limit)),
            nodes=state.nodes,
            node_statuses=state.node_statuses,
            services=state.services,
            rollouts=state.rollouts,
            networks={INGRESS.id: INGRESS},
            tasks=state.tasks,
            statuses=state.statuses,
            tasks_by_service=by_service,  # type: ignore[arg-type]
            tasks_by_node=by_node,  # type: ignore[arg-type]
            tasks_by_network=by_network,  # type: ignore[arg-type]
        )
