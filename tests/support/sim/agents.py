"""The nodes: each holds a session with a manager, runs what it is told to, and reports it, through the real `Reports`.

What a container does depends on its image and on the seed only. A node that is cut off goes on with what it has; one
that lost its power has nothing when it comes back. Either way it stops what it is not assigned any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from minicommon.errors import MiniError
from minimanager.domain.objects import (
    NodeDescription,
    NodeResources,
    Task,
    TaskState,
    TaskStatus,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.dispatcher.node_record import Arrival
from minimanager.rpc.dispatcher.reports import Reports
from support.sim.managers import Manager
from support.sim.virtual_time import VirtualTime

GOOD: Final = "good"
SLOW: Final = "slow"
MISSING: Final = "missing"
CRASHING: Final = "crashing"
FLAKY: Final = "flaky"
IMAGES: Final = (GOOD, SLOW, MISSING, CRASHING, FLAKY)
"""What the name of an image says of it, up to the colon."""

CPUS: Final = 4 * 10**9
MEMORY: Final = 8 << 30


class Power(Enum):
    ON = "on"
    CUT_OFF = "cut off"
    OFF = "off"


@dataclass(slots=True)
class Container:
    """What the node knows of one of its tasks."""

    task: Task
    state: TaskState = TaskState.ASSIGNED
    timer: asyncio.TimerHandle | None = None
    stopping: bool = False


@dataclass(slots=True)
class Session:
    """The `Closable` that the manager's presence holds, and the node's queue of reports."""

    manager: Manager
    reports: Reports
    writing: asyncio.Task[None]
    life: int
    """Of the manager: one that was started again does not know the session."""
    closed: bool = False

    @property
    def lives(self) -> bool:
        return not self.closed and self.manager.alive and self.manager.life == self.life

    def close(self, reason: MiniError) -> None:
        self.closed = True
        self.writing.cancel()


class Agent:
    def __init__(self, node_id: str, seed: int, clock: VirtualTime, zone: str) -> None:
        self.node_id = node_id
        self.zone = zone
        self.power = Power.ON
        self.session: Session | None = None
        self.containers: dict[str, Container] = {}
        self._seed = seed
        self._clock = clock

    # --- the session ---

    async def connect(self, manager: Manager) -> None:
        """Open a session. Raises MiniError when the manager cannot write it down."""
        if self.session is not None:
            self.drop(grace=0.0)
        await manager.core.settle()
        reports = Reports(manager.core, self.node_id)
        writing = manager.supervisor.start(f"reports of {self.node_id}", reports.run())
        session = Session(manager, reports, writing, manager.life)
        manager.presence.arrive(self.node_id, session)
        self.session = session
        described = NodeDescription(
            hostname=self.node_id,
            os="linux",
            architecture="x86_64",
            resources=NodeResources(CPUS, MEMORY),
            engine_labels={"zone": self.zone},
        )
        try:
            await manager.records.ready(self.node_id, Arrival(described, f"10.77.{self._seed % 200}.1"))
        except (MiniError, asyncio.CancelledError):
            self.drop(grace=0.0)
            raise
        if self.session is session:
            self.refresh(manager.core.cache.snapshot())
            for container in list(self.containers.values()):
                self._report(container)

    def drop(self, *, grace: float) -> None:
        """The session ends; the manager waits for the node for so many seconds."""
        session, self.session = self.session, None
        if session is None:
            return
        lives = session.lives
        session.close(MiniError("the session was dropped"))
        if lives:
            session.manager.presence.depart(
                self.node_id, session, grace_ns=round(grace * 1e9), message="heartbeat failure"
            )

    @property
    def connected(self) -> bool:
        return self.session is not None and self.session.lives

    # --- power ---

    def cut_off(self) -> None:
        """The node cannot be reached; its containers run on."""
        self.power = Power.CUT_OFF
        self.drop(grace=15.0)

    def lose_power(self) -> None:
        """Everything on the node ends at once; the agent knows from its disk what was there."""
        self.power = Power.OFF
        self.drop(grace=15.0)
        for container in self.containers.values():
            self._wait(container, None)

    def come_back(self) -> None:
        """Connecting is up to whoever keeps the nodes connected."""
        was, self.power = self.power, Power.ON
        if was is Power.OFF:
            for container in self.containers.values():
                if not container.state.finished:
                    self._reach(container, TaskState.FAILED)

    # --- tasks ---

    def refresh(self, snapshot: Snapshot) -> None:
        """These are the node's tasks now."""
        if self.power is not Power.ON:
            return
        present = snapshot.of_node(self.node_id)
        wanted = {task_id: task for task_id, task in present.items() if not snapshot.state(task).finished}
        for task_id in [known for known in self.containers if known not in wanted]:
            self._wait(self.containers.pop(task_id), None)
        for task in wanted.values():
            container = self.containers.get(task.id)
            if container is None:
                container = self.containers[task.id] = Container(task)
            container.task = task
            self._go_on(container)

    def _go_on(self, container: Container) -> None:
        """The next step, if none is under way."""
        if container.state.finished:
            return
        wanted = container.task.desired_state
        if wanted >= TaskState.SHUTDOWN:
            if not container.stopping:
                container.stopping = True
                started = container.state >= TaskState.STARTING
                takes = self._dice(container, "stop").uniform(0.05, 8.0) if started else 0.01
                self._wait(container, takes, TaskState.SHUTDOWN)
            return
        if container.timer is not None:
            return
        if container.state < TaskState.PREPARING:
            self._reach(container, TaskState.PREPARING)
            self._prepare(container)
        elif container.state is TaskState.READY and wanted > TaskState.READY:
            self._reach(container, TaskState.STARTING)
            self._wait(container, self._dice(container, "start").uniform(0.05, 1.5), TaskState.RUNNING)

    def _prepare(self, container: Container) -> None:
        image, dice = self._image(container), self._dice(container, "prepare")
        if image == MISSING:
            self._wait(container, dice.uniform(0.1, 2.0), TaskState.REJECTED)
        else:
            slow = image == SLOW or dice.random() < 0.02
            self._wait(container, dice.uniform(20, 90) if slow else dice.uniform(0.05, 2.0), TaskState.READY)

    def _runs(self, container: Container) -> None:
        """How long it goes on by itself, and how it ends."""
        image, dice = self._image(container), self._dice(container, "run")
        is_job = container.task.desired_state is TaskState.COMPLETE
        if image == CRASHING or (image == FLAKY and dice.random() < 0.3):
            self._wait(container, dice.uniform(0.0, 12.0), TaskState.FAILED)
        elif is_job:
            self._wait(container, dice.uniform(0.5, 30.0), TaskState.COMPLETE)

    def _wait(
        self, container: Container, seconds: float | None, then: TaskState = TaskState.SHUTDOWN
    ) -> None:
        """What happens next, instead of what was to happen; None: nothing."""
        if container.timer is not None:
            container.timer.cancel()
            container.timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            container.timer = loop.call_later(seconds, self._reach, container, then)

    def _reach(self, container: Container, state: TaskState) -> None:
        container.timer = None
        container.state = state
        if state is TaskState.RUNNING:
            self._runs(container)
        elif state.finished:
            self._wait(container, None)
        self._report(container)
        self._go_on(container)

    def _report(self, container: Container) -> None:
        session = self.session
        if session is not None and self.connected and self.power is Power.ON:
            status = TaskStatus(container.task.id, state=container.state, state_since_ns=self._clock.now_ns())
            session.reports.add([status])

    def _image(self, container: Container) -> str:
        return container.task.spec.container.image.partition(":")[0]

    def _dice(self, container: Container, what: str) -> Random:
        return Random(f"{self._seed}/{container.task.id}/{what}")
