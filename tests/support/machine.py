"""What every story of the decisions has in common: tasks end, nodes come and go, time passes, the leader decides.

A hypothesis state machine on a `Simulation`; a test adds users, and what must hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from minimanager.domain.constraints import unmet
from minimanager.domain.objects import (
    HOUR,
    SECOND,
    Availability,
    NodeState,
    RestartCondition,
    RestartPolicy,
    Task,
    TaskState,
)
from support.simulation import Simulation

SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

policies = st.builds(
    RestartPolicy,
    condition=st.sampled_from(RestartCondition),
    delay_ns=st.sampled_from((0, 5 * SECOND)),
    max_attempts=st.integers(0, 2),
    window_ns=st.sampled_from((0, 30 * SECOND)),
)
ended = st.sampled_from((TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED))


class ClusterMachine(RuleBasedStateMachine):
    """Call `start` in an `initialize` rule."""

    def start(self, sim: Simulation) -> None:
        self.sim = sim
        self._displaced: set[str] = set()

    # --- what happens ---

    @precondition(lambda self: self.sim.tasks)
    @rule(data=st.data(), state=ended)
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        task = self.sim.tasks[data.draw(st.sampled_from(sorted(self.sim.tasks)))]
        if task.node_id:
            self.sim.report(task.id, state)

    @precondition(lambda self: self.sim.nodes)
    @rule(data=st.data(), state=st.sampled_from(NodeState), availability=st.sampled_from(Availability))
    def a_node_changes(self, data: st.DataObject, state: NodeState, availability: Availability) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.sim.nodes)))
        self.sim.set_node(node_id, state)
        self.sim.set_availability(node_id, availability)

    @rule(by_ns=st.sampled_from((SECOND, 5 * SECOND, 60 * SECOND, 25 * HOUR)))
    def time_passes(self, by_ns: int) -> None:
        self.sim.pass_time(by_ns)

    @rule()
    def nodes_work(self) -> None:
        self.sim.nodes_work()

    @rule()
    def the_leader_decides(self) -> None:
        self.check_decision()
        self.sim.step()

    @rule(data=st.data())
    def the_leader_decides_and_some_actions_lose(self, data: st.DataObject) -> None:
        self.check_decision()
        self.sim.step(keep=lambda action: data.draw(st.booleans()))

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.sim.settle()
        assert self.sim.decide().actions == ()
        self.check_at_rest()

    @rule()
    def passes_alone_come_to_rest(self) -> None:
        """What a pass gives back, the next one may use, and the one after that has nothing left to do."""
        for _ in range(3):
            self.sim.step()
        assert self.sim.decide().actions == ()

    # --- for a test to add ---

    def check_decision(self) -> None:
        """What must hold of each decision."""

    def check_at_rest(self) -> None:
        """What must hold once nobody has anything to do."""

    # --- looking ---

    def sound(self, task: Task) -> bool:
        """Whether the task may stay where it is. Of one that may not, the order to stop may have got lost."""
        if not task.node_id:
            return True
        node, status = self.sim.nodes.get(task.node_id), self.sim.node_statuses.get(task.node_id)
        if node is None or status is None or status.state is NodeState.DOWN:
            return False
        return node.spec.availability is not Availability.DRAIN and self.suits(task)

    def suits(self, task: Task) -> bool:
        """Whether the task's node, if it has one, satisfies the constraints of its service."""
        node, service = self.sim.nodes.get(task.node_id), self.sim.services.get(task.service_id)
        if node is None or service is None:
            return True
        return not unmet(service.spec.placement.constraints, node, self.sim.node_statuses[node.id])

    def settled(self, service_id: str) -> Iterator[Task]:
        """The service's live tasks that could stay where they are at every moment.

        One that could not, even for a moment, may be there beside its successor.
        """
        self._displaced.update(task.id for task in self.sim.tasks.values() if not self.sound(task))
        for task in self.sim.live(service_id):
            if task.id not in self._displaced:
                yield task
