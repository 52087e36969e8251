"""A story: users who change their minds, and faults, for some minutes; then neither, and everything must come to rest.

What happens, and when, depends on the seed only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from minicommon.errors import MiniError
from minimanager.codec import to_proto
from minimanager.decide.global_nodes import takes
from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import is_active
from minimanager.domain.objects import (
    SECOND,
    Availability,
    ContainerSpec,
    FailureAction,
    Placement,
    PortConfig,
    PublishMode,
    ResourceReservations,
    Resources,
    RestartCondition,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
    UpdateConfig,
    UpdateOrder,
)
from miniproto.v1 import control_pb2
from support.sim.agents import CPUS, GOOD, IMAGES, Power
from support.sim.faulty_store import Faults
from support.sim.managers import Manager
from support.sim.virtual_time import VirtualTime, run
from support.sim.world import KEYS, ZONES, World

LARGE_EVERY: Final = 10
"""One story in so many is of hundreds of nodes; it takes as long as all those between."""

CALL_SECONDS: Final = 10.0
"""How long a user waits for an answer."""

PATIENCE_SECONDS: Final = 7200.0
"""For everything to come to rest; some updates take one place after the other."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a story ended."""

    seed: int
    nodes: int
    revisions: int
    digest: str
    virtual_seconds: float


class StoryError(AssertionError):
    """Something did not hold; the message has what happened before."""


def tell(seed: int, *, nodes: int | None = None) -> Told:
    """Run the story of this seed. Raises StoryError."""
    clock = VirtualTime()
    return run(_tell(seed, nodes, clock), clock)


async def _tell(seed: int, nodes: int | None, clock: VirtualTime) -> Told:
    dice = Random(f"{seed}/story")
    size = nodes or (dice.randint(200, 240) if seed % LARGE_EVERY == 0 else dice.randint(3, 25))
    world = World(seed, size, clock=clock, history_limit=dice.choice((0, 1, 2, 5)))
    try:
        await world.start()
        story = Story(world, dice)
        await story.trouble()
        await story.calm()
    except BaseException as error:
        happened = "\n".join(world.trace[-60:])
        raise StoryError(f"seed {seed}, {clock.passed_seconds:.3f} s: {error!r}\n{happened}") from error
    finally:
        await world.stop()
    return Told(seed, size, world.history.revisions, world.history.digest, clock.passed_seconds)


class Story:
    def __init__(self, world: World, dice: Random) -> None:
        self.world = world
        self.dice = dice
        self._names = 0
        self._mends: list[tuple[float, Callable[[], object]]] = []

    # --- trouble ---

    async def trouble(self) -> None:
        """Things happen, one after the other, at any moment."""
        dice = self.dice
        for _ in range(dice.randint(2, 5)):
            await self._try(self.create)
        events = dice.choices(self._events(), weights=[w for _, w in self._weights()], k=self._length())
        for event in events:
            await self._pass(dice.choice((0.0, 0.01, 0.3, 2.0, 6.0, 20.0, 60.0)) * dice.random())
            await self._try(event)
        await self._pass(5.0)

    def _length(self) -> int:
        return self.dice.randint(6, 12) if len(self.world.agents) > 50 else self.dice.randint(15, 45)

    def _weights(self) -> list[tuple[Callable[[], object], int]]:
        return [
            (self.create, 3),
            (self.scale, 6),
            (self.update, 10),
            (self.roll_back, 3),
            (self.pause, 2),
            (self.remove, 2),
            (self.change_constraints, 3),
            (self.cut_node, 5),
            (self.power_off, 4),
            (self.change_availability, 5),
            (self.relabel, 3),
            (self.join, 1),
            (self.remove_node, 1),
            (self.cut_manager, 4),
            (self.freeze_manager, 4),
            (self.freeze_leader_deciding, 3),
            (self.kill_manager, 3),
            (self.worsen_store, 4),
        ]

    def _events(self) -> list[Callable[[], object]]:
        return [event for event, _ in self._weights()]

    async def _try(self, event: Callable[[], object]) -> None:
        """What a user is refused, or is not answered, is the user's bad luck."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await event()  # type: ignore[misc]
        except MiniError as error:
            self.world.note(f"refused: {error.message}")
        except TimeoutError:
            self.world.note("no answer")

    async def _pass(self, seconds: float) -> None:
        """Time passes, and what was broken for a while is mended when its moment has come."""
        clock = self.world.clock
        until = clock.passed_seconds + seconds
        while self._mends and min(self._mends, key=_moment)[0] <= until:
            first = min(self._mends, key=_moment)
            self._mends.remove(first)
            await self.world.wait(max(first[0] - clock.passed_seconds, 0.0))
            done = first[1]()
            if done is not None:
                await done  # type: ignore[misc]
        await self.world.wait(max(until - clock.passed_seconds, 0.0))

    def _mend_in(self, seconds: float, mend: Callable[[], object]) -> None:
        self._mends.append((self.world.clock.passed_seconds + seconds, mend))

    # --- users ---

    def _manager(self) -> Manager:
        serving = [manager for manager in self.world.managers if manager.alive]
        return self.dice.choice(serving)

    def _service(self) -> Service | None:
        present = [s for s in self.world.history.state.services.values() if not s.removing]
        return self.dice.choice(sorted(present, key=lambda s: s.id)) if present else None

    async def create(self) -> None:
        self._names += 1
        dice, mode = self.dice, self.dice.choice(_MODES)
        is_job = mode.is_job
        spec = ServiceSpec(
            name=f"s{self._names}",
            mode=mode,
            replicas=0 if mode.is_global else self._replicas(),
            max_concurrent=dice.choice((0, 1, 3)) if mode is ServiceMode.REPLICATED_JOB else 0,
            task=self._task(is_job=is_job),
            ports=() if is_job else self._ports(),
            placement=self._placement(mode),
        )
        if not is_job:
            spec = replace(spec, update=self._config(spec), rollback=self._config(spec, back=True))
        self.world.note(f"create {spec.name}: {_brief(spec)}")
        await self._manager().services.Create(
            control_pb2.CreateServiceRequest(spec=to_proto(spec)),
            None,  # type: ignore[arg-type]
        )

    def _replicas(self) -> int:
        nodes = len(self.world.agents)
        return self.dice.choice((0, 1, 2, 3, 5, 8, min(nodes, 60), min(2 * nodes, 80)))

    def _task(self, *, is_job: bool = False) -> TaskSpec:
        dice = self.dice
        image = dice.choices(IMAGES, weights=(12, 3, 2, 2, 2))[0]
        condition = RestartCondition.ON_FAILURE if is_job else RestartCondition.ANY
        return TaskSpec(
            container=ContainerSpec(image=f"{image}:{dice.randint(1, 1000)}"),
            resources=Resources(reservations=ResourceReservations(dice.choice((0, 0, 0, 10**8, CPUS // 2)))),
            restart=RestartPolicy(
                condition=condition if dice.random() < 0.85 else dice.choice(tuple(RestartCondition)),
                delay_ns=dice.choice((0, SECOND, 5 * SECOND)),
                max_attempts=0 if dice.random() < 0.8 else dice.randint(1, 3),
                window_ns=dice.choice((0, 0, 60 * SECOND)),
            ),
        )

    def _ports(self) -> tuple[PortConfig, ...]:
        roll = self.dice.random()
        if roll < 0.4:
            return ()
        if roll < 0.85:
            return (PortConfig(target_port=80, published_port=0),)
        number = 9000 + self._names
        return (PortConfig(target_port=80, published_port=number, publish_mode=PublishMode.HOST),)

    def _placement(self, mode: ServiceMode) -> Placement:
        dice = self.dice
        constraints = (f"node.labels.zone=={dice.choice(ZONES)}",) if dice.random() < 0.25 else ()
        most = dice.choice((1, 3)) if mode is ServiceMode.REPLICATED and dice.random() < 0.1 else 0
        spread = ("node.labels.zone",) if dice.random() < 0.2 else ()
        return Placement(constraints=constraints, spread_over=spread, max_replicas=most)

    def _config(self, spec: ServiceSpec, *, back: bool = False) -> UpdateConfig:
        """A new task finds no room beside the old one where its port, or a limit per node, is in the way."""
        dice = self.dice
        host = any(port.publish_mode is PublishMode.HOST for port in spec.ports)
        orders = (UpdateOrder.STOP_FIRST,) if host else (UpdateOrder.STOP_FIRST, *UpdateOrder)
        actions = (FailureAction.PAUSE, FailureAction.CONTINUE)
        return UpdateConfig(
            parallelism=dice.choice((0, 1, 1, 2, 5)),
            delay_ns=dice.choice((0, 0, SECOND, 5 * SECOND)),
            failure_action=dice.choice(actions if back else (*actions, FailureAction.ROLLBACK)),
            monitor_ns=dice.choice((0, SECOND, 5 * SECOND, 20 * SECOND)),
            max_failure_millionths=dice.choice((0, 0, 300_000)),
            order=dice.choice(orders),
            progress_deadline_ns=dice.choice((60, 600)) * SECOND,
        )

    async def update(self) -> None:
        if (service := self._service()) is None:
            return
        spec = replace(service.spec, task=self._task(is_job=service.spec.mode.is_job))
        if not spec.mode.is_job and self.dice.random() < 0.3:
            spec = replace(spec, update=replace(self._config(spec), order=spec.update.order))
        await self._change(service, spec)

    async def change_constraints(self) -> None:
        if (service := self._service()) is not None:
            placement = self._placement(service.spec.mode)
            await self._change(service, replace(service.spec, placement=placement))

    async def _change(self, service: Service, spec: ServiceSpec) -> None:
        self.world.note(f"update {spec.name} from {_brief(service.spec)} to {_brief(spec)}")
        request = control_pb2.UpdateServiceRequest(
            ref=service.id, version=service.meta.version, spec=to_proto(spec)
        )
        await self._manager().services.Update(request, None)  # type: ignore[arg-type]

    async def scale(self) -> None:
        if (service := self._service()) is not None:
            replicas = self._replicas()
            self.world.note(f"scale {service.spec.name} from {service.spec.replicas} to {replicas}")
            request = control_pb2.ScaleServiceRequest(ref=service.id, replicas=replicas)
            await self._manager().services.Scale(request, None)  # type: ignore[arg-type]

    async def roll_back(self) -> None:
        if (service := self._service()) is not None:
            self.world.note(f"roll back {service.spec.name}")
            request = control_pb2.RollBackServiceRequest(ref=service.id)
            await self._manager().services.RollBack(request, None)  # type: ignore[arg-type]

    async def pause(self) -> None:
        if (service := self._service()) is not None and not service.spec.mode.is_job:
            self.world.note(f"pause {service.spec.name}")
            request = control_pb2.PauseServiceRequest(ref=service.id, paused=True)
            await self._manager().services.Pause(request, None)  # type: ignore[arg-type]
            self._mend_in(self.dice.uniform(0, 60), lambda: self._try(lambda: self._resume(service.id)))

    async def _resume(self, service_id: str) -> None:
        self.world.note(f"resume {service_id}")
        request = control_pb2.PauseServiceRequest(ref=service_id)
        await self._manager().services.Pause(request, None)  # type: ignore[arg-type]

    async def remove(self) -> None:
        if (service := self._service()) is not None:
            self.world.note(f"remove {service.spec.name}")
            request = control_pb2.RemoveServiceRequest(ref=service.id)
            await self._manager().services.Remove(request, None)  # type: ignore[arg-type]

    async def change_availability(self) -> None:
        await self._set_availability(self._node(), self.dice.choice(tuple(Availability)))

    async def _set_availability(self, node_id: str, availability: Availability) -> None:
        node = self.world.history.state.nodes[node_id]
        self.world.note(f"{node_id} becomes {availability.name}")
        spec = replace(node.spec, availability=availability)
        await self._update_node(node_id, spec)

    async def relabel(self) -> None:
        node_id, zone = self._node(), self.dice.choice(ZONES)
        self.world.note(f"{node_id} moves to zone {zone}")
        await self._update_node(
            node_id, replace(self.world.history.state.nodes[node_id].spec, labels={"zone": zone})
        )

    async def _update_node(self, node_id: str, spec: object) -> None:
        node = self.world.history.state.nodes[node_id]
        request = control_pb2.UpdateNodeRequest(ref=node_id, version=node.meta.version, spec=to_proto(spec))
        await self._manager().nodes.Update(request, None)  # type: ignore[arg-type]

    # --- faults ---

    def _node(self) -> str:
        return self.dice.choice(sorted(self.world.history.state.nodes))

    async def join(self) -> None:
        self.world.note(f"{await self.world.join()} joins")

    async def remove_node(self) -> None:
        node_id = self._node()
        if len(self.world.history.state.nodes) < 3:
            return
        self.world.note(f"{node_id} is removed")
        await self._manager().nodes.Remove(
            control_pb2.RemoveNodeRequest(ref=node_id, force=True),
            None,  # type: ignore[arg-type]
        )
        agent = self.world.agents.pop(node_id)
        if agent.session is not None and agent.session.manager.alive:
            agent.session.manager.presence.forget(node_id, MiniError("removed"))
        agent.lose_power()

    async def cut_node(self) -> None:
        agent = self.world.agents[self._node()]
        if agent.power is Power.ON:
            self.world.note(f"{agent.node_id} is cut off")
            agent.cut_off()
            self._mend_in(self.dice.choice((1.0, 10.0, 30.0, 120.0, 90_000.0)), agent.come_back)

    async def power_off(self) -> None:
        agent = self.world.agents[self._node()]
        if agent.power is Power.ON:
            self.world.note(f"{agent.node_id} loses its power")
            agent.lose_power()
            self._mend_in(self.dice.choice((2.0, 20.0, 60.0, 300.0)), agent.come_back)

    def _victim(self) -> Manager:
        """The leader, more often than not: the others have less to lose."""
        leading = [each for each in self.world.managers if each.alive and each.election.leading]
        return self.dice.choice(leading if leading and self.dice.random() < 0.7 else self.world.managers)

    async def cut_manager(self) -> None:
        manager = self._victim()
        seconds = self.dice.choice((0.5, 2.0, 8.0, 20.0))
        self.world.note(f"{manager.name} is cut off from the store for {seconds} s")
        manager.connection.cut()
        self._mend_in(seconds, manager.connection.mend)

    async def freeze_manager(self) -> None:
        """What it was about to write is written when it thaws, if it still may be."""
        manager = self._victim()
        seconds = self.dice.choice((1.0, 4.0, 12.0))
        self.world.note(f"{manager.name} is frozen for {seconds} s")
        manager.connection.stall()
        self._mend_in(seconds, manager.connection.mend)

    async def freeze_leader_deciding(self) -> None:
        """Between a decision and the writing of it, for longer than its lease: by then another one leads."""
        self.world.when_decided = self._freeze_leader

    def _freeze_leader(self, leader: Manager) -> None:
        self.world.note(f"{leader.name} is frozen with a decision in its hand")
        leader.connection.stall()
        self._mend_in(self.dice.choice((4.0, 12.0)), leader.connection.mend)

    async def kill_manager(self) -> None:
        """At least one goes on."""
        serving = [manager for manager in self.world.managers if manager.alive]
        if len(serving) > 1:
            manager = self.dice.choice(serving)
            self.world.note(f"{manager.name} is killed")
            await manager.stop()
            self._mend_in(self.dice.uniform(1.0, 15.0), lambda: self._restart(manager))

    async def _restart(self, manager: Manager) -> None:
        self.world.note(f"{manager.name} starts again")
        await self.world.start_manager(manager)

    async def worsen_store(self) -> None:
        manager = self._victim()
        faults = Faults(
            latency=self.dice.choice((0.001, 0.01, 0.1)),
            lost=self.dice.choice((0.0, 0.1, 0.4)),
            unanswered=self.dice.choice((0.0, 0.1, 0.4)),
        )
        self.world.note(f"{manager.name}: {faults}")
        manager.connection.faults = faults

    # --- calm ---

    async def calm(self) -> None:
        """Everything is mended, what cannot work is given something that can, and all must come to rest."""
        world = self.world
        world.note("calm")
        for manager in world.managers:
            manager.connection.faults = Faults()
            manager.connection.mend()
        mends, self._mends = sorted(self._mends, key=_moment), []
        for _, mend in mends:
            done = mend()
            if done is not None:
                await done  # type: ignore[misc]
        await world.wait(30.0)
        for node_id in sorted(world.history.state.nodes):
            if world.history.state.nodes[node_id].spec.availability is not Availability.ACTIVE:
                await self._set_availability(node_id, Availability.ACTIVE)
        for service in sorted(world.history.state.services.values(), key=lambda s: s.id):
            if not service.removing:
                await self._change(service, self._sane(service.spec))
        waited = 0.0
        while problems := self._unrest():
            if waited > PATIENCE_SECONDS:
                raise AssertionError("no rest: " + "; ".join(problems[:10]))
            await world.wait(60.0)
            waited += 60.0
        problems = list(self._at_rest())
        assert not problems, "at rest: " + "; ".join(problems[:10])

    def _sane(self, spec: ServiceSpec) -> ServiceSpec:
        container = replace(spec.task.container, image=f"{GOOD}:{self.dice.randint(1000, 2000)}")
        task = replace(
            spec.task,
            container=container,
            resources=Resources(),
            restart=replace(spec.task.restart, condition=RestartCondition.ON_FAILURE, max_attempts=0),
        )
        if spec.mode.is_job:
            return replace(spec, task=task, placement=Placement())
        update = replace(spec.update, progress_deadline_ns=600 * SECOND)
        host = any(port.publish_mode is PublishMode.HOST for port in spec.ports)
        most = len(self.world.history.state.nodes) if host else spec.replicas
        return replace(
            spec, task=task, update=update, placement=Placement(), replicas=min(spec.replicas, most)
        )

    def _unrest(self) -> list[str]:
        """What is still going on."""
        world, state = self.world, self.world.history.state
        problems = [f"{s.spec.name} is still being removed" for s in state.services.values() if s.removing]
        problems += [
            f"rollout of {r.id} is {r.state.name}: {r.message}"
            for r in state.rollouts.values()
            if not r.state.completed
        ]
        for service in state.services.values():
            problems += self._missing(service)
        return problems or list(world.undecided())

    def _missing(self, service: Service) -> Iterator[str]:
        """Places that should have a task which runs, or has completed, and have none."""
        state = self.world.history.state
        if service.removing:
            return
        snapshot = self.world.snapshot()
        overlay = Overlay(snapshot, self.world.clock.now_ns(), lambda: "never")
        places: list[int | str] = list(range(1, service.spec.replicas + 1))
        if service.spec.mode.is_global:
            places = [node_id for node_id in snapshot.nodes if takes(overlay, service, node_id)]
        elif not service.spec.mode.is_job:
            slots = {t.slot for t in snapshot.of_service(service.id).values() if is_active(t)}
            places = [*sorted(slots), *[0] * (service.spec.replicas - len(slots))]
        for place in places:
            tasks = state.of_place((service.id, place))
            fresh = [task for task in tasks if task.spec_version == service.spec_version]
            good = [t for t in fresh if self._serves(t, is_job=service.spec.mode.is_job)]
            if not good and not any(task.error for task in fresh if is_active(task)):
                yield f"{service.spec.name}: place {place} has {[_told(self.world, t) for t in tasks]}"

    def _serves(self, task: Task, *, is_job: bool) -> bool:
        state = self.world.history.state
        if is_job:
            return state.observed(task) is TaskState.COMPLETE
        return state.wanted(task) and state.runs(task)

    def _at_rest(self) -> Iterator[str]:
        """What must be so when nothing happens any more."""
        world, state = self.world, self.world.history.state
        for place, task_ids in state.by_place.items():
            tasks = state.of_place(place)
            wanted = [task for task in tasks if state.wanted(task)]
            if len(wanted) > 1:
                yield f"place {place} has {len(wanted)} tasks to run"
            limit = max(world.history_limit, 1)
            attempts = tasks[-1].spec.restart.max_attempts if tasks else 0
            if len(task_ids) > max(limit, attempts + 1 if attempts else 0, len(wanted)):
                yield f"place {place} keeps {len(task_ids)} tasks, {limit} are kept"
        for service in state.services.values():
            slots = {t.slot for t in state.tasks.values() if t.service_id == service.id}
            if not service.spec.mode.is_global and len(slots) != service.spec.replicas:
                yield f"{service.spec.name} has {len(slots)} slots, {service.spec.replicas} were asked for"
        for task in state.tasks.values():
            if task.service_id not in state.services:
                yield f"task {task.id} is of a service that is gone"
        for agent in world.agents.values():
            for task_id, container in agent.containers.items():
                known = state.tasks.get(task_id)
                if container.state is TaskState.RUNNING and (known is None or not state.wanted(known)):
                    yield f"{agent.node_id} still runs {task_id}, which nobody wants"
        yield from _claims_at_rest(world)


def _claims_at_rest(world: World) -> Iterator[str]:
    state = world.history.state
    for key, owner in state.claims.items():
        if owner not in state.tasks and owner not in state.services and owner not in state.nodes:
            yield f"{KEYS.parse(key)} belongs to {owner}, which is gone"
        task = state.tasks.get(owner)
        if task is not None and state.observed(task).finished:
            yield f"{KEYS.parse(key)} belongs to task {owner}, which has ended"


def _told(world: World, task: Task) -> str:
    state = world.history.state
    return (
        f"{task.id} v{task.spec_version} {state.observed(task).name} wanted {task.desired_state.name} "
        f"on {task.node_id or 'no node'} {task.error}".rstrip()
    )


def _brief(spec: ServiceSpec) -> str:
    update = spec.update
    return (
        f"{spec.mode.name.lower()} {spec.replicas} {spec.task.container.image} "
        f"{'|'.join(spec.placement.constraints)} "
        f"update {update.parallelism} {update.order.name.lower()} {update.failure_action.name.lower()}"
    )


def _moment(mend: tuple[float, Callable[[], object]]) -> float:
    return mend[0]


_MODES: Final = (
    ServiceMode.REPLICATED,
    ServiceMode.REPLICATED,
    ServiceMode.REPLICATED,
    ServiceMode.GLOBAL,
    ServiceMode.REPLICATED_JOB,
    ServiceMode.GLOBAL_JOB,
)
