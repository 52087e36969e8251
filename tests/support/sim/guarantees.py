"""What holds in every story, at every revision. Each is a class whose docstring is the sentence.

`at(moment)` gives what contradicts it; a guarantee may keep what it needs to remember.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from minimanager.decide.actions import Decision, UpdateTask
from minimanager.decide.jobs import concurrency
from minimanager.decide.restart import GATE_TIMEOUT_NS
from minimanager.decide.slots import is_active, is_outdated
from minimanager.domain.objects import (
    NetworkAttachment,
    Node,
    Service,
    ServiceMode,
    Task,
    TaskState,
    TaskStatus,
    UpdateConfig,
    UpdateOrder,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.store.claims import claims_of
from minimanager.store.keys import AddressClaim
from support.sim.history import Moment, Place, State

_BY_ITSELF = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


class Guarantee(Protocol):
    def at(self, moment: Moment) -> Iterator[str]:
        """What contradicts it at this revision."""


class Decided:
    """What the leaders saw: the service, when they told a task to stop, and each placement."""

    def __init__(self) -> None:
        self.stops: dict[str, Service] = {}
        self.placements: set[tuple[str, str]] = set()

    def add(self, snapshot: Snapshot, decision: Decision) -> None:
        for action in decision.actions:
            task = getattr(action, "task", None)
            if not isinstance(task, Task):
                continue
            old = snapshot.tasks.get(task.id)
            if task.node_id and not (old and old.node_id):
                self.placements.add((task.id, task.node_id))
            if isinstance(action, UpdateTask) and not is_active(task):
                service = snapshot.services.get(task.service_id)
                if service is not None:
                    self.stops[task.id] = service


class StatesGoForward:
    """States only go forward, a node is chosen once, and a task that has ended never runs again."""

    def __init__(self) -> None:
        self._gone: set[str] = set()

    def at(self, moment: Moment) -> Iterator[str]:
        for change in moment.changes:
            old, new = change.old, change.new
            if isinstance(old, Task) and new is None:
                self._gone.add(old.id)
            if isinstance(new, Task) and old is None and new.id in self._gone:
                yield f"task {new.id} has come back"
            if isinstance(old, Task) and isinstance(new, Task):
                if new.state < old.state or new.desired_state < old.desired_state:
                    yield f"task {new.id} went back: {_states(old)} to {_states(new)}"
                if old.node_id and new.node_id != old.node_id:
                    yield f"task {new.id} moved from {old.node_id} to {new.node_id}"
            elif isinstance(old, TaskStatus) and isinstance(new, TaskStatus) and new.state < old.state:
                yield f"the status of {old.id} went back from {old.state.name} to {new.state.name}"


class OneWantedPerPlace:
    """A place has at most one task that is to run; two while an update or a drain starts the new one first."""

    def at(self, moment: Moment) -> Iterator[str]:
        for place in moment.places():
            yield from _crowd(moment.state, place, moment.state.wanted, "are to run")


class OneRunningPerPlace:
    """No more tasks run in a place than are asked for, unless one could not be told to stop for a minute."""

    def at(self, moment: Moment) -> Iterator[str]:
        state = moment.state

        def counts(task: Task) -> bool:
            given_up = state.stopped_at_ns.get(task.id, moment.now_ns) + GATE_TIMEOUT_NS <= moment.now_ns
            service = state.services.get(task.service_id)
            once = service is not None and service.spec.mode is ServiceMode.GLOBAL_JOB
            emptied = task.desired_state is TaskState.REMOVE and not once
            return state.runs(task) and not given_up and not emptied

        for place in moment.places():
            yield from _crowd(state, place, counts, "run")


class NoMorePlacesThanAsked:
    """A new task never gives a service more places than replicas, nor a job more tasks than may run at once."""

    def at(self, moment: Moment) -> Iterator[str]:
        state = moment.state
        for old, new in moment.tasks():
            service = state.services.get(new.service_id) if new is not None else None
            if old is not None or new is None or service is None:
                continue
            spec = service.spec
            present = list(state.by_service[service.id].values())
            kept = {task.place for task in present if task.desired_state is not TaskState.REMOVE}
            others = [t for t in state.of_place((service.id, new.place)) if t.id != new.id]
            is_new = all(task.desired_state is TaskState.REMOVE for task in others)
            if not spec.mode.is_global and is_new and len(kept) > spec.replicas:
                yield f"service {spec.name} has {len(kept)} places, {spec.replicas} were asked for"
            if spec.mode is ServiceMode.REPLICATED_JOB:
                busy = [t for t in present if self._is_busy(state, t)]
                if len(busy) > concurrency(spec):
                    yield f"{len(busy)} tasks of job {spec.name} at once, {concurrency(spec)} are allowed"
            if spec.mode.is_job:
                done = [t.id for t in others if self._is_done(state, t, service)]
                if done:
                    yield f"task {new.id} does again what {done[0]} has done"

    def _is_busy(self, state: State, task: Task) -> bool:
        if state.observed(task).finished or task.id in state.displaced:
            return False
        return is_active(task) or bool(task.node_id)

    def _is_done(self, state: State, task: Task, service: Service) -> bool:
        done = state.observed(task) is TaskState.COMPLETE and task.id not in state.displaced
        return done and not is_outdated(task, service) and task.desired_state is not TaskState.REMOVE


class NoMoreDownThanParallelism:
    """An update never stops more running tasks than its parallelism before their successors run or have failed.

    And when it is to start the new one first, it stops none before that one has run.
    """

    def __init__(self, decided: Decided) -> None:
        self._decided = decided
        self._down: dict[str, dict[Place, str]] = {}

    def at(self, moment: Moment) -> Iterator[str]:
        state = moment.state
        for place in moment.places():
            if self._is_up(state, place):
                self._down.get(place[0], {}).pop(place, None)
        for old, new in moment.tasks():
            service = self._decided.stops.get(new.id) if new is not None else None
            if old is None or new is None or service is None or not self._replaces(state, old, new, service):
                continue
            place = (new.service_id, new.place)
            if self._is_up(state, place):
                continue
            config = _config(service)
            down = self._down.setdefault(new.service_id, {})
            down[place] = new.id
            if config.order is UpdateOrder.START_FIRST:
                yield f"task {new.id} of {new.name} was stopped before its successor ran"
            elif 0 < config.parallelism < len(down):
                names = ", ".join(str(each[1]) for each in down)
                yield f"places {names} of {service.spec.name} are down, {config.parallelism} may be"

    def _replaces(self, state: State, old: Task, new: Task, service: Service) -> bool:
        """Whether a healthy task is told to stop because its service has changed."""
        stops = is_active(old) and new.desired_state is TaskState.SHUTDOWN
        return (
            stops
            and state.runs(old)
            and old.id not in state.displaced
            and not service.spec.mode.is_job
            and is_outdated(old, service)
        )

    def _is_up(self, state: State, place: Place) -> bool:
        """Whether a task runs there, or a newer one than was stopped has ended by itself, or it is to be empty."""
        stopped = self._down.get(place[0], {}).get(place, "")
        tasks = [t for t in state.of_place(place) if t.desired_state is not TaskState.REMOVE]
        if not tasks or any(state.runs(task) and is_active(task) for task in tasks):
            return True
        newer = [task for task in tasks if task.id in state.ran and task.id > stopped] if stopped else []
        ended = [t for t in tasks if state.observed(t) in _BY_ITSELF and (not stopped or t.id > stopped)]
        return bool(stopped and (newer or ended))


class OnlyWhereItMayBe:
    """A task gets only a node that the leader saw ready, active, suitable and with room for it."""

    def __init__(self, decided: Decided) -> None:
        self._decided = decided

    def at(self, moment: Moment) -> Iterator[str]:
        for old, new in moment.tasks():
            placed = new is not None and new.node_id and not (old is not None and old.node_id)
            if placed and new is not None and (new.id, new.node_id) not in self._decided.placements:
                yield f"nobody has decided that task {new.id} gets node {new.node_id}"


class ClaimsHaveOneOwner:
    """Every name, port and address belongs to exactly the object that has it, and to none when none has it."""

    def at(self, moment: Moment) -> Iterator[str]:
        state, keys = moment.state, moment.state.keys
        for change in moment.changes:
            before, after = _claims(state, change.old), _claims(state, change.new)
            for key in before - after:
                if state.claims.get(key) == getattr(change.old, "id", ""):
                    yield f"{key} still belongs to {state.claims[key]}, which has let go of it"
            for key in after:
                if state.claims.get(key) != getattr(change.new, "id", ""):
                    yield f"{key} belongs to {state.claims.get(key)}, not to {getattr(change.new, 'id', '')}"
        for key in moment.claims:
            owner = state.claims.get(key, "")
            held = state.tasks.get(owner) or state.services.get(owner) or state.nodes.get(owner)
            if owner and key not in _claims(state, held):
                kind = "an address" if isinstance(keys.parse(key), AddressClaim) else "a claim"
                yield f"{key}, {kind}, belongs to {owner}, which does not have it"


def _crowd(state: State, place: Place, counts: object, what: str) -> Iterator[str]:
    """Tasks that could not stay where they were do not count: another may have taken their place already."""
    assert callable(counts)
    found = [t for t in state.of_place(place) if counts(t) and t.id not in state.displaced]
    kinds = Counter((task.spec_version, task.ports) for task in found)
    allowed = 2 if place[0] in state.start_first else 1
    if len(found) > allowed or any(count > 1 for count in kinds.values()):
        listed = ", ".join(f"{task.id} (version {task.spec_version}, {_states(task)})" for task in found)
        yield f"{len(found)} tasks of place {place[1]} {what} at once: {listed}"


def _config(service: Service) -> UpdateConfig:
    return service.spec.rollback if service.rolling_back else service.spec.update


def _states(task: Task) -> str:
    return f"{task.state.name} wanted {task.desired_state.name}"


def _claims(state: State, held: object) -> frozenset[str]:
    """The keys that the object is to own."""
    if isinstance(held, Task):
        return frozenset(state.keys.address(a.network_id, a.address) for a in _addresses(held))
    if isinstance(held, Service) and not held.removing:
        return frozenset(claims_of(state.keys, held))
    if isinstance(held, Node):
        return frozenset((state.keys.address(state.ingress_id, held.ingress_address),))
    return frozenset()


def _addresses(task: Task) -> tuple[NetworkAttachment, ...]:
    return tuple(each for each in task.attachments if each.address)


def all_guarantees(decided: Decided) -> tuple[Guarantee, ...]:
    return (
        StatesGoForward(),
        OneWantedPerPlace(),
        OneRunningPerPlace(),
        NoMorePlacesThanAsked(),
        NoMoreDownThanParallelism(decided),
        OnlyWhereItMayBe(decided),
        ClaimsHaveOneOwner(),
    )
