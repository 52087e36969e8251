"""The snapshot as it will be once the actions decided so far are done.

One pass decides in steps (orchestrate, allocate, schedule, reap) and each step must see what the one before it wants.
The overlay holds those wishes and in the end folds them: a task that was made, given addresses and placed in one pass
is one `CreateTask`; one that is as it was before is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from minimanager.decide.actions import (
    Action,
    CreateTask,
    Decision,
    DeleteNetwork,
    DeleteService,
    DeleteTask,
    RollBack,
    SaveRollout,
    UpdateTask,
)
from minimanager.decide.slots import Slot, by_slot
from minimanager.domain.constraints import unmet
from minimanager.domain.objects import Availability, Network, NodeState, Rollout, Service, Task, TaskState
from minimanager.domain.snapshot import Snapshot

MAX_NEW_TASKS = 10_000
"""Tasks that one pass makes. A pass runs between the other work of its process, which must not stall: this many take
about a third of a second. The next pass, at once, makes the rest."""


class Overlay:
    """One pass over `snapshot` at `now_ns`; `new_id` gives the ids of new tasks."""

    def __init__(self, snapshot: Snapshot, now_ns: int, new_id: Callable[[], str]) -> None:
        self.snapshot = snapshot
        self.now_ns = now_ns
        self.new_id = new_id
        self._changed: dict[str, Task] = {}
        self._created: dict[str, dict[str, Task]] = {}
        self._deleted: dict[str, Task] = {}
        self._services: list[Service] = []
        self._networks: list[Network] = []
        self._rollouts: list[Rollout] = []
        self._rolled_back: list[Service] = []
        self._wake_at_ns: int | None = None
        self._new = 0
        self._tasks: dict[str, list[Task]] = {}
        self._slots: dict[str, dict[int | str, Slot]] = {}
        self._sound: dict[str, bool] = {}
        self._suited: dict[tuple[tuple[str, ...], str], bool] = {}

    # --- reading ---

    def of_service(self, service_id: str) -> list[Task]:
        """The service's tasks as they are to be; not to be changed. Kept until the next wish about the service."""
        tasks = self._tasks.get(service_id)
        if tasks is None:
            tasks = self._tasks[service_id] = self._collect(service_id)
        return tasks

    def slots(self, service_id: str) -> dict[int | str, Slot]:
        """The service's slots as they are to be, by number or node; kept likewise."""
        slots = self._slots.get(service_id)
        if slots is None:
            slots = self._slots[service_id] = by_slot(self.of_service(service_id))
        return slots

    def _collect(self, service_id: str) -> list[Task]:
        present = self.snapshot.of_service(service_id).values()
        tasks = [self._changed.get(task.id, task) for task in present if task.id not in self._deleted]
        tasks.extend(self._created.get(service_id, {}).values())
        return tasks

    def _forget(self, service_id: str) -> None:
        self._tasks.pop(service_id, None)
        self._slots.pop(service_id, None)

    def of_node(self, node_id: str) -> Iterator[Task]:
        """The tasks that the snapshot has on the node, as they are to be; not those newly placed."""
        for task in self.snapshot.of_node(node_id).values():
            if task.id not in self._deleted:
                yield self._changed.get(task.id, task)

    def state(self, task: Task) -> TaskState:
        """The observed state."""
        status = self.snapshot.statuses.get(task.id)
        return task.state if status is None or status.state < task.state else status.state

    def finished(self, task: Task) -> bool:
        """Whether the task has ended for good."""
        return self.state(task) > TaskState.RUNNING

    def sound(self, node_id: str) -> bool:
        """Whether the node can keep its tasks: it is a member, not down, and not to be emptied."""
        sound = self._sound.get(node_id)
        if sound is None:
            sound = not (self.lost(node_id) or self.down(node_id) or self.draining(node_id))
            self._sound[node_id] = sound
        return sound

    def lost(self, node_id: str) -> bool:
        """Whether the node was removed from the cluster."""
        return bool(node_id) and node_id not in self.snapshot.nodes

    def down(self, node_id: str) -> bool:
        """Whether the node is a member but does not answer."""
        status = self.snapshot.node_statuses.get(node_id)
        return status is not None and status.state is NodeState.DOWN

    def draining(self, node_id: str) -> bool:
        """Whether the node is to be emptied."""
        node = self.snapshot.nodes.get(node_id)
        return node is not None and node.spec.availability is Availability.DRAIN

    def leaving(self, node_id: str) -> bool:
        """Whether the node is to be emptied and still works, so that its tasks can be moved without haste."""
        return self.draining(node_id) and not self.down(node_id)

    def suits(self, service: Service, node_id: str) -> bool:
        """Whether the node satisfies the constraints that the service has now; no node yet is no wrong node."""
        constraints = service.spec.placement.constraints
        node = self.snapshot.nodes.get(node_id)
        if not constraints or node is None:
            return True
        suited = self._suited.get((constraints, node_id))
        if suited is None:
            suited = not unmet(constraints, node, self.snapshot.node_statuses.get(node_id))
            self._suited[constraints, node_id] = suited
        return suited

    # --- deciding ---

    def create(self, task: Task) -> None:
        """Add a new task."""
        self._created.setdefault(task.service_id, {})[task.id] = task
        self._new += 1
        self._forget(task.service_id)

    def has_room(self) -> bool:
        """Whether this pass may make another task; if not, it asks for the next pass."""
        if self._new < MAX_NEW_TASKS:
            return True
        self.wake_at(self.now_ns)
        return False

    def put(self, task: Task) -> None:
        """Replace a task by its next form."""
        self._forget(task.service_id)
        created = self._created.get(task.service_id)
        if created is not None and task.id in created:
            created[task.id] = task
        else:
            self._changed[task.id] = task

    def delete(self, task: Task) -> None:
        """Remove a task that the snapshot has."""
        self._forget(task.service_id)
        self._changed.pop(task.id, None)
        self._deleted[task.id] = task

    def delete_service(self, service: Service) -> None:
        """Remove a service that has no tasks in the snapshot."""
        self._services.append(service)

    def delete_network(self, network: Network) -> None:
        """Remove a network that nothing has an address on."""
        self._networks.append(network)

    def put_rollout(self, rollout: Rollout) -> None:
        """Write how far a rollout has come."""
        self._rollouts.append(rollout)

    def put_service(self, service: Service) -> None:
        """Replace a service by what it was before."""
        self._rolled_back.append(service)

    def wake_at(self, when_ns: int) -> None:
        """Look again at `when_ns` at the latest."""
        if self._wake_at_ns is None or when_ns < self._wake_at_ns:
            self._wake_at_ns = when_ns

    # --- the result ---

    def decision(self) -> Decision:
        """The pass as actions: changes first, so that what they give back is free; deletions, then new tasks."""
        return Decision(tuple(self._actions()), self._wake_at_ns)

    def _actions(self) -> Iterator[Action]:
        for task in self._changed.values():
            if task != self.snapshot.tasks[task.id]:
                yield UpdateTask(replace(task, meta=replace(task.meta, updated_at_ns=self.now_ns)))
        for task in self._deleted.values():
            yield DeleteTask(task.id, task.meta.version)
        for service_id, tasks in self._created.items():
            version = self.snapshot.services[service_id].meta.version
            for task in tasks.values():
                yield CreateTask(task, version)
        for rollout in self._rollouts:
            if rollout != self.snapshot.rollouts.get(rollout.id):
                created_at_ns = rollout.meta.created_at_ns or self.now_ns
                meta = replace(rollout.meta, created_at_ns=created_at_ns, updated_at_ns=self.now_ns)
                yield SaveRollout(replace(rollout, meta=meta))
        for service in self._rolled_back:
            yield RollBack(replace(service, meta=replace(service.meta, updated_at_ns=self.now_ns)))
        for service in self._services:
            yield DeleteService(service.id, service.meta.version)
        for network in self._networks:
            yield DeleteNetwork(network.id, network.meta.version)
