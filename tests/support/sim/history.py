"""The history of a story: every revision that was committed, folded into the state at that revision.

What the leader saw when it decided is kept beside it, since a decision is right or wrong by what could be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from minimanager import codec
from minimanager.decide.slots import is_active, is_released
from minimanager.domain.constraints import unmet
from minimanager.domain.objects import (
    Availability,
    Node,
    NodeState,
    NodeStatus,
    Object,
    Rollout,
    Service,
    Task,
    TaskState,
    TaskStatus,
    UpdateOrder,
)
from minimanager.store.api import Event
from minimanager.store.keys import AddressClaim, Keys, NameClaim, ObjectKey, PortClaim

Place = tuple[str, int | str]
"""(service id, slot or node)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after a revision; None: it did not, or does not, exist."""

    old: Object | None
    new: Object | None


@dataclass(frozen=True, slots=True)
class Moment:
    """One revision."""

    revision: int
    now_ns: int
    changes: tuple[Change, ...]
    state: State
    claims: tuple[str, ...]
    """Keys of the claims that were taken or given back."""

    def tasks(self) -> Iterator[tuple[Task | None, Task | None]]:
        for change in self.changes:
            if isinstance(change.old or change.new, Task):
                yield change.old, change.new  # type: ignore[misc]

    def places(self) -> tuple[Place, ...]:
        """The places whose tasks, or what is known of them, have changed."""
        found: dict[Place, None] = {}
        for change in self.changes:
            for side in (change.old, change.new):
                task = self.state.tasks.get(side.id) if isinstance(side, TaskStatus) else side
                if isinstance(task, Task):
                    found[task.service_id, task.place] = None
        return tuple(found)


@dataclass(slots=True)
class State:
    """All objects at one revision, and what has to be remembered of those before it."""

    keys: Keys
    ingress_id: str
    tasks: dict[str, Task] = field(default_factory=dict)
    statuses: dict[str, TaskStatus] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    node_statuses: dict[str, NodeStatus] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    by_place: dict[Place, dict[str, None]] = field(default_factory=dict)
    by_node: dict[str, dict[str, None]] = field(default_factory=dict)
    by_service: dict[str, dict[str, Task]] = field(default_factory=dict)
    displaced: set[str] = field(default_factory=set)
    """Tasks that at some moment could not stay where they were: node down, gone, drained, or unsuited."""
    start_first: set[str] = field(default_factory=set)
    """Services that at some moment were to be updated start-first."""
    stopped_at_ns: dict[str, int] = field(default_factory=dict)
    """When each task was first not wanted to run any more."""
    ran: set[str] = field(default_factory=set)
    """Tasks that have been observed running."""

    def of_place(self, place: Place) -> list[Task]:
        """Oldest first."""
        found = [self.tasks[task_id] for task_id in self.by_place.get(place, ())]
        return sorted(found, key=lambda task: (task.meta.created_at_ns, task.id))

    def observed(self, task: Task) -> TaskState:
        status = self.statuses.get(task.id)
        return task.state if status is None else max(task.state, status.state)

    def wanted(self, task: Task) -> bool:
        """Whether the task is to run now, and has not ended."""
        return is_released(task) and not self.observed(task).finished

    def runs(self, task: Task) -> bool:
        return self.observed(task) is TaskState.RUNNING

    def down(self, node_id: str) -> bool:
        status = self.node_statuses.get(node_id)
        return bool(node_id) and (
            node_id not in self.nodes or (status is not None and status.state is NodeState.DOWN)
        )

    # --- folding ---

    def put(self, old: Object | None, new: Object | None, now_ns: int) -> None:
        match old if new is None else new:
            case Task() as task:
                self._put_task(task, gone=new is None, now_ns=now_ns)
            case TaskStatus(id=task_id) as status:
                _put(self.statuses, task_id, new)
                if status.state is TaskState.RUNNING:
                    self.ran.add(task_id)
            case Service(id=service_id) as service:
                _put(self.services, service_id, new)
                if UpdateOrder.START_FIRST in (service.spec.update.order, service.spec.rollback.order):
                    self.start_first.add(service_id)
                self._displace(self.by_service.get(service_id, ()))
            case Rollout(id=service_id):
                _put(self.rollouts, service_id, new)
            case Node(id=node_id):
                _put(self.nodes, node_id, new)
                self._displace(self.by_node.get(node_id, ()))
            case NodeStatus(id=node_id):
                _put(self.node_statuses, node_id, new)
                self._displace(self.by_node.get(node_id, ()))

    def _put_task(self, task: Task, *, gone: bool, now_ns: int) -> None:
        place = (task.service_id, task.place)
        if gone:
            del self.tasks[task.id]
            del self.by_service[task.service_id][task.id]
            del self.by_place[place][task.id]
            self.by_node.get(task.node_id, {}).pop(task.id, None)
            return
        self.tasks[task.id] = task
        self.by_service.setdefault(task.service_id, {})[task.id] = task
        self.by_place.setdefault(place, {})[task.id] = None
        if task.node_id:
            self.by_node.setdefault(task.node_id, {})[task.id] = None
            self._displace((task.id,))
        if not is_active(task):
            self.stopped_at_ns.setdefault(task.id, now_ns)

    def _displace(self, task_ids: Iterable[str]) -> None:
        self.displaced.update(task_id for task_id in task_ids if not self._may_stay(self.tasks[task_id]))

    def _may_stay(self, task: Task) -> bool:
        if not task.node_id:
            return True
        node, service = self.nodes.get(task.node_id), self.services.get(task.service_id)
        if node is None or self.down(task.node_id) or node.spec.availability is Availability.DRAIN:
            return False
        constraints = service.spec.placement.constraints if service is not None else ()
        return not unmet(constraints, node, self.node_statuses.get(node.id))


class History:
    """Folds events; gives each revision as a `Moment`."""

    def __init__(self, keys: Keys, ingress_id: str) -> None:
        self.state = State(keys, ingress_id)
        self.revisions = 0
        self._digest = sha256()

    @property
    def digest(self) -> str:
        """The same for the same history, times included."""
        return self._digest.hexdigest()

    def fold(self, revision: int, events: Iterable[Event], now_ns: int) -> Moment:
        self.revisions += 1
        changes: list[Change] = []
        claims: list[str] = []
        for event in events:
            value = event.value.value if event.value else b""
            self._digest.update(f"{now_ns} {revision} {event.key} ".encode() + value)
            match self.state.keys.parse(event.key):
                case ObjectKey(kind=kind, id=object_id):
                    new = codec.decode(kind, value, revision) if event.value else None
                    table = getattr(self.state, _TABLES[kind.value], {}) if kind.value in _TABLES else {}
                    old = table.get(object_id)
                    changes.append(Change(old, new))
                    self.state.put(old, new, now_ns)
                case NameClaim() | PortClaim() | AddressClaim():
                    claims.append(event.key)
                    _put(self.state.claims, event.key, value.decode() if event.value else None)
        return Moment(revision, now_ns, tuple(changes), self.state, tuple(claims))


_TABLES = {
    "task": "tasks",
    "status": "statuses",
    "service": "services",
    "rollout": "rollouts",
    "node": "nodes",
    "node-status": "node_statuses",
}


def _put(table: dict[str, Any], key: str, value: object) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
