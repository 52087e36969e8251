"""Replicated services: as many slots as replicas, and in each slot one task that is to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import count, islice

from minimanager.decide.moving import Moves
from minimanager.decide.overlay import Overlay
from minimanager.decide.rollout import Replacing
from minimanager.decide.slots import Slot
from minimanager.decide.tries import UNSUITED, keep_one, new_task, refill, remove
from minimanager.domain.objects import Service, Task, TaskState


def orchestrate(overlay: Overlay, service: Service) -> None:
    """Retire what has ended or cannot stay, remove slots that are too many, fill those that are empty."""
    slots = overlay.slots(service.id)
    replicas = service.spec.replicas
    moves = Moves(overlay, service)
    surplus = set(surplus_slots(overlay, slots.values(), replicas)) if len(slots) > replicas else set()
    replacing = Replacing(overlay, service, [slot for slot in slots.values() if slot.number not in surplus])
    for slot in slots.values():
        if slot.number in surplus:
            remove(overlay, slot)
        elif not _retire(overlay, service, slot, moves, replacing) and overlay.has_room():
            refill(overlay, replacing.template(slot), slot)
    _grow(overlay, service, frozenset(slot.number for slot in slots.values()))


def _grow(overlay: Overlay, service: Service, taken: frozenset[int]) -> None:
    """Make the slots that are missing, lowest numbers first."""
    free = (number for number in count(1) if number not in taken)
    for number in islice(free, max(service.spec.replicas - len(taken), 0)):
        if not overlay.has_room():
            return
        overlay.create(new_task(overlay, service, slot=number))


def surplus_slots(overlay: Overlay, slots: Iterable[Slot], replicas: int) -> list[int]:
    """Which slots go when there are more than `replicas`.

    Those that do not run go first, then those on the nodes with the most tasks of the service (swarmkit
    `orchestrator/replicated/services.go`), higher numbers before lower ones.
    """
    running: list[tuple[int, str]] = []
    others: list[int] = []
    for slot in slots:
        node_id = next((t.node_id for t in slot.active if overlay.snapshot.up(t)), "")
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


def _retire(overlay: Overlay, service: Service, slot: Slot, moves: Moves, replacing: Replacing) -> bool:
    """Ask the tasks that cannot stay to stop. Whether the slot needs no new task."""
    fit: list[Task] = []
    leaving: list[Task] = []
    for task in slot.active:
        if overlay.finished(task) or replacing.retires(slot, task):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif not overlay.sound(task.node_id):
            if overlay.leaving(task.node_id):
                leaving.append(task)
            else:
                overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        elif not overlay.suits(service, task.node_id):
            overlay.put(replace(task, desired_state=TaskState.SHUTDOWN, error=UNSUITED))
        else:
            fit.append(task)
    keep_one(overlay, service, fit)
    kept = [task for task in leaving if moves.keep(slot, task, fit)]
    return replacing.needs_nothing(slot, fit) or (bool(kept) and not moves.may_begin())
