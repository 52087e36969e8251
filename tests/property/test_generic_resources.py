"""What a node has of a resource is handed out once: by name to one task at a time, by number never too often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from minimanager.domain.objects import (
    GenericResource,
    NodeState,
    ResourceReservations,
    Resources,
    Task,
    TaskSpec,
    TaskState,
)
from support.simulation import Simulation, service

NAMES = ("api", "web")
ended = st.sampled_from((TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED))
reserved = st.tuples(st.integers(0, 2), st.integers(0, 3)).map(
    lambda counts: tuple(
        GenericResource(kind, count=count)
        for kind, count in zip(("GPU", "SSD"), counts, strict=True)
        if count
    )
)


def spec(generic: tuple[GenericResource, ...], force: int) -> TaskSpec:
    reservations = ResourceReservations(generic=generic)
    return TaskSpec(resources=Resources(reservations=reservations), force_update=force)


class Story(RuleBasedStateMachine):
    @initialize(nodes=st.integers(1, 3))
    def begin(self, nodes: int) -> None:
        self.sim = Simulation(nodes)
        for number, status in enumerate(self.sim.node_statuses.values(), 1):
            cards = tuple(f"UUID{number}{letter}" for letter in "abc"[:number])
            offered = (GenericResource("GPU", cards), GenericResource("SSD", count=number))
            description = replace(status.description, generic_resources=offered)
            self.sim.node_statuses[status.id] = replace(status, description=description)

    @rule(
        name=st.sampled_from(NAMES),
        replicas=st.integers(0, 5),
        generic=reserved,
        force=st.integers(0, 2),
    )
    def create_or_update(
        self, name: str, replicas: int, generic: tuple[GenericResource, ...], force: int
    ) -> None:
        wanted = {"replicas": replicas, "task": spec(generic, force)}
        if name not in self.sim.services:
            self.sim.put_service(service(name, **wanted))
        elif not self.sim.services[name].removing:
            self.sim.update(name, **wanted)

    @precondition(lambda self: self.sim.tasks)
    @rule(data=st.data(), state=ended)
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        task = self.sim.tasks[data.draw(st.sampled_from(sorted(self.sim.tasks)))]
        if task.node_id:
            self.sim.report(task.id, state)

    @rule(data=st.data(), state=st.sampled_from((NodeState.READY, NodeState.DOWN)))
    def a_node_fails_or_comes_back(self, data: st.DataObject, state: NodeState) -> None:
        self.sim.set_node(data.draw(st.sampled_from(sorted(self.sim.nodes))), state)

    @rule(name=st.sampled_from(NAMES))
    def remove_service(self, name: str) -> None:
        if name in self.sim.services:
            self.sim.remove_service(name)

    @rule(lose=st.booleans())
    def the_leader_decides(self, lose: bool) -> None:
        turn = iter(range(1000))
        self.sim.step(keep=lambda action: not lose or next(turn) % 2 == 0)

    @rule()
    def the_nodes_work(self) -> None:
        self.sim.nodes_work()

    @rule(seconds=st.sampled_from((1, 10)))
    def time_passes(self, seconds: int) -> None:
        self.sim.pass_time(seconds * 1_000_000_000)

    def holders(self, node_id: str) -> list[Task]:
        return [
            task
            for task in self.sim.tasks.values()
            if task.node_id == node_id and not self.sim.state(task).finished
        ]

    @invariant()
    def no_name_is_anothers_too_and_no_number_is_exceeded(self) -> None:
        for status in self.sim.node_statuses.values():
            has = {each.kind: each for each in status.description.generic_resources}
            held = [each for task in self.holders(status.id) for each in task.resources]
            names = Counter(name for each in held for name in each.ids)
            assert all(count == 1 for count in names.values()), names
            assert set(names) <= {name for each in has.values() for name in each.ids}
            for kind, offered in has.items():
                assert sum(each.amount for each in held if each.kind == kind) <= offered.amount

    @invariant()
    def a_placed_task_has_what_it_reserved(self) -> None:
        for task in self.sim.tasks.values():
            asked = {each.kind: each.count for each in task.spec.resources.reservations.generic}
            got = {each.kind: each.amount for each in task.resources}
            assert got == (asked if task.node_id else {})


TestStory = Story.TestCase
TestStory.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
