"""Replicated services: as many slots as replicas, and in each slot one task that is to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import count, islice

from minimanager.decide.moving import Moves
from minimanager.decide.overlay import Overlay
from minimanager.decide.restart import not_before_ns, should_restart
from minimanager.decide.slots import Slot, age, is_outdated
from minimanager.domain.objects import Meta, Service, Task, TaskState

UNSUITED = "assigned node no longer meets constraints"
"""SwarmKit's words (`manager/orchestrator/constraintenforcer`)."""


def orchestrate(overlay: Overlay, service: Service) -> None:
    """Retire what has ended or cannot stay, remove slots that are too many, fill those that are empty."""
    slots = overlay.slots(service.id)
    replicas = service.spec.replicas
    moves = Moves(overlay, service)
    surplus = set(surplus_slots(overlay, slots.values(), replicas)) if len(slots) > replicas else set()
    for slot in slots.values():
        if slot.number in surplus:
            _remove(overlay, slot)
        elif not _retire(overlay, service, slot, moves) and overlay.has_room():
            _refill(overlay, service, slot)
    _grow(overlay, service, frozenset(slots))


def _grow(overlay: Overlay, service: Service, taken: frozenset[int]) -> None:
    """Make the slots that are missing, lowest numbers first."""
    free = (number for number in count(1) if number not in taken)
    for number in islice(free, max(service.spec.replicas - len(taken), 0)):
        if not overlay.has_room():
            return
        overlay.create(_new_task(overlay, service, number))


def surplus_slots(overlay: Overlay, slots: Iterable[Slot], replicas: int) -> list[int]:
    """Which slots go when there are more than `replicas`.

    Those that do not run go first, then those on the nodes with the most tasks of the service (swarmkit
    `orchestrator/replicated/services.go`), higher numbers before lower ones.
    """
    running: list[tuple[int, str]] = []
    others: list[int] = []
    for slot in slots:
        node_id = next((t.node_id for t in slot.active if overlay.state(t) is TaskState.RUNNING), "")
        if node_id:
            running.append((slot.number, node_id))
        else:
            others.append(slot.number)
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, int]] = []
    for number, node_id in running:
        seen[node_id] += 1
        ranked.append((seen[node_id], number))
    kept_first = [number for _, number in sorted(ranked)] + others
    return kept_first[replicas:]


def _retire(overlay: Overlay, service: Service, slot: Slot, moves: Moves) -> bool:
    """Ask the tasks that cannot stay to stop. Whether the slot needs no new task."""
    fit: list[Task] = []
    leaving: list[Task] = []
    for task in slot.active:
        if overlay.finished(task) or is_outdated(task, service):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif overlay.leaving(task.node_id):
            leaving.append(task)
        elif not overlay.sound(task.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif not overlay.suits(service, task.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN, error=UNSUITED))
        else:
            fit.append(task)
    if len(fit) > 1:  # after a partition two may share a slot: the one that came furthest stays
        fit.sort(key=lambda task: (-overlay.state(task), age(task)))
        for task in fit[1:]:
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
    kept = [task for task in leaving if moves.keep(slot, task, fit)]
    return bool(fit) or (bool(kept) and not moves.may_begin())


def _refill(overlay: Overlay, service: Service, slot: Slot) -> None:
    """Give the slot a new task, if the restart policy grants one or the specification is new."""
    last = slot.newest
    if is_outdated(last, service):
        overlay.create(_new_task(overlay, service, slot.number, after=last))
    elif should_restart(overlay, slot):
        task = _new_task(overlay, service, slot.number, after=last)
        overlay.create(replace(task, not_before_ns=not_before_ns(overlay, last)))


def _remove(overlay: Overlay, slot: Slot) -> None:
    for task in slot.tasks:
        overlay.put(replace(task, desired_state=TaskState.REMOVE))


def _new_task(overlay: Overlay, service: Service, number: int, *, after: Task | None = None) -> Task:
    """A task for the slot. A successor is younger than its predecessor even when the clock was set back."""
    created_at_ns = overlay.now_ns if after is None else max(overlay.now_ns, after.meta.created_at_ns + 1)
    return Task(
        id=overlay.new_id(),
        meta=Meta(0, created_at_ns, created_at_ns),
        service_id=service.id,
        service_name=service.spec.name,
        slot=number,
        spec=service.spec.task,
        spec_version=service.spec_version,
        desired_state=TaskState.RUNNING if after is None else TaskState.READY,
        state_since_ns=overlay.now_ns,
        message="created",
        ports=service.ports,
    )
