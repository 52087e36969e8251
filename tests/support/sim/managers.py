"""The managers: the real cache, writer, election and loop each, the real part of the dispatcher, one store for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from minicommon.supervise import Supervisor
from minimanager.ca.sealer import ClusterSealer
from minimanager.control.leader import Election
from minimanager.control.loop import Decide, Reconcile, ReconcileLoop
from minimanager.decide.affected import affected
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.node_record import NodeRecords
from minimanager.rpc.dispatcher.presence import Presence
from minimanager.rpc.nodes import NodesServicer
from minimanager.rpc.services import ServicesServicer
from minimanager.store.api import Compare, Store
from minimanager.store.cache import Cache
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.keys import Keys, Kind
from minimanager.store.writer import Writer
from support.sim.faulty_store import Faults, FaultyStore
from support.sim.virtual_time import VirtualTime

Deliver = Callable[[str, Snapshot], None]
"""(node id, snapshot): something about the node's tasks has changed."""


class Manager:
    """A manager process. It can die and start again; its memory is gone then."""

    def __init__(
        self,
        name: str,
        store: Store,
        keys: Keys,
        *,
        clock: VirtualTime,
        dice: Random,
        ids: Callable[[], str],
        fenced: bool = True,
    ) -> None:
        self._fenced = fenced
        self.name = name
        self.connection = FaultyStore(store, clock, dice, Faults())
        self.keys = keys
        self._clock = clock
        self._ids = ids
        self.alive = False
        self.life = 0
        """How often it has started: what belonged to a former life is gone."""
        self.ended: BaseException | None = None
        """The error that ended it by itself, which none should."""
        self._process: asyncio.Task[None] | None = None

    async def start(self, reconcile: Reconcile, deliver: Deliver) -> None:
        """Start the process and wait until it serves, which takes a connection to the store."""
        self.connection.mend()
        keys, store = self.keys, self.connection
        self.core = Core(
            cache=Cache(store, keys),
            writer=Writer(store, keys),
            store=store,
            keys=keys,
            clock=self._clock,
            node_id=self.name,
            new_id=self._ids,
        )
        self.records = NodeRecords(self.core)
        self.services = ServicesServicer(self.core, ClusterSealer(Envelope(b"s" * KEY_BYTES, "simulated")))
        self.nodes = NodesServicer(self.core)
        self.election = Election(store, keys, self.name, clock=self._clock)
        serving = asyncio.Event()
        self._process = asyncio.create_task(self._run(reconcile, deliver, serving), name=self.name)
        self._process.add_done_callback(self._note_end)
        await serving.wait()
        self.alive = True
        self.life += 1

    async def stop(self) -> None:
        """Kill the process: nothing that it had in memory survives, its lease is not given back."""
        self.alive = False
        process, self._process = self._process, None
        if process is not None:
            self.connection.mend()
            self.connection.cut()  # or the election would resign, which a killed process cannot
            process.remove_done_callback(self._note_end)
            process.cancel()
            await asyncio.wait([process])
            self.connection.mend()

    async def _run(self, reconcile: Reconcile, deliver: Deliver, serving: asyncio.Event) -> None:
        async with Supervisor() as group:
            self.supervisor = group
            self.presence = Presence(self.records, self._clock, group)
            group.start_eternal("cache", self._follow_store())
            await self.core.cache.wait_synced()
            self.presence.expect(self.core.cache.snapshot())
            group.start_eternal("deliver", self._deliver(deliver))
            loop = ReconcileLoop(
                self.core.cache, self.core.writer, Decide(reconcile, affected, self._ids, self._clock)
            )
            group.start_eternal("election", self.election.run(lambda fence: self._lead(loop, fence)))
            serving.set()

    async def _lead(self, loop: ReconcileLoop, fence: Compare) -> None:
        await loop.run(fence if self._fenced else None)

    async def _follow_store(self) -> None:
        await self.core.cache.run()

    async def _deliver(self, deliver: Deliver) -> None:
        with self.core.cache.subscribe() as changes:
            async for change_set in changes:
                snapshot = self.core.cache.snapshot()
                touched = {
                    node_id: None
                    for change in change_set.changes
                    if change.kind is Kind.TASK
                    for task in (change.old, change.new)
                    if (node_id := getattr(task, "node_id", ""))
                }
                for node_id in touched:
                    deliver(node_id, snapshot)

    def _note_end(self, process: asyncio.Task[None]) -> None:
        if not process.cancelled():
            self.ended = process.exception()
        self.alive = False
