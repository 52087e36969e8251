"""Emptying a node without a gap: where it can be, a task's successor runs elsewhere before the task stops.

A task that runs on a draining node stays until its slot has another that runs. It goes at once when nothing would be
won by waiting: it does not run yet, its policy grants no successor, no node has room for one, or one has failed.
"""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.overlay import Overlay
from minimanager.decide.restart import should_restart
from minimanager.decide.slots import Slot
from minimanager.domain.objects import Service, Task, TaskState


class Moves:
    """The moves of one service in one pass, made before anything is decided about its slots.

    As many slots move at the same time as an update of the service changes.
    """

    def __init__(self, overlay: Overlay, service: Service) -> None:
        self._overlay = overlay
        self._parallelism = service.spec.update.parallelism
        self._under_way = sum(self._is_moving(slot) for slot in overlay.slots(service.id).values())

    def keep(self, slot: Slot, task: Task, others: list[Task]) -> bool:
        """Decide about a task on a draining node: whether it stays for now. If not it is told to stop.

        `others` are the tasks of the slot that can stay where they are, the one that came furthest first.
        """
        if self._is_worth_it(slot, task, others):
            return True
        self._overlay.put(replace(task, desired_state=TaskState.SHUTDOWN))
        return False

    def may_begin(self) -> bool:
        """Whether one more slot may move now; if so it is counted."""
        if self._parallelism and self._under_way >= self._parallelism:
            return False
        self._under_way += 1
        return True

    def _is_worth_it(self, slot: Slot, task: Task, others: list[Task]) -> bool:
        overlay = self._overlay
        if overlay.state(task) is not TaskState.RUNNING:
            return False
        if others:
            successor = others[0]
            waits_in_vain = not successor.node_id and bool(successor.error)
            return not overlay.snapshot.up(successor) and not waits_in_vain
        return slot.newest.id == task.id and should_restart(overlay, slot)

    def _is_moving(self, slot: Slot) -> bool:
        """Whether the slot has a task that is to leave and another that is to follow it."""
        if len(slot.tasks) < 2:
            return False
        leaving = [
            self._overlay.leaving(task.node_id) for task in slot.active if not self._overlay.finished(task)
        ]
        return any(leaving) and not all(leaving)
