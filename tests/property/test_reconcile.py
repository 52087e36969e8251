"""What holds in every story: users change their minds, tasks fail, nodes come and go, transactions get lost.

Each sentence is checked after every step, on the state that the store would hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from minimanager.decide.actions import CreateTask, UpdateTask
from minimanager.domain.constraints import unmet
from minimanager.domain.objects import (
    HOUR,
    SECOND,
    Availability,
    NodeState,
    Placement,
    PlacementStrategy,
    PublishMode,
    RestartCondition,
    RestartPolicy,
    Task,
    TaskState,
)
from support.simulation import Simulation, host_port, ingress_port, service, task_spec

NAMES = ("api", "db", "web")
HISTORY = 3
PORTS = {
    "api": (ingress_port(80),),
    "db": (host_port(5432),),
    "web": (ingress_port(81), host_port(82)),
}

names = st.sampled_from(NAMES)
policies = st.builds(
    RestartPolicy,
    condition=st.sampled_from(RestartCondition),
    delay_ns=st.sampled_from((0, 5 * SECOND)),
    max_attempts=st.integers(0, 2),
    window_ns=st.sampled_from((0, 30 * SECOND)),
)
specs = st.builds(
    task_spec,
    restart=policies,
    nano_cpus=st.sampled_from((0, 10**9, 3 * 10**9)),
    force_update=st.integers(0, 3),
)
zones = st.sampled_from(("", "eu", "us"))
placements = st.builds(
    Placement,
    constraints=st.sampled_from(((), ("node.labels.zone==eu",), ("node.labels.zone!=us", "node.id!=node-1"))),
    spread_over=st.sampled_from(((), ("node.labels.zone",))),
    max_replicas=st.sampled_from((0, 0, 1)),
    strategy=st.sampled_from(PlacementStrategy),
    affinity=st.sampled_from(((), (), ("api",))),
    anti_affinity=st.sampled_from(((), (), ("db",))),
)
ended = st.sampled_from((TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED))


class Story(RuleBasedStateMachine):
    @initialize(nodes=st.integers(0, 3))
    def begin(self, nodes: int) -> None:
        self.sim = Simulation(nodes, history=HISTORY)
        self.before: dict[str, Task] = {}
        self.joined = nodes

    # --- what happens ---

    @rule(name=names, replicas=st.integers(0, 4), spec=specs, placement=placements)
    def create_or_update(self, name: str, replicas: int, spec: object, placement: Placement) -> None:
        if name in (*placement.affinity, *placement.anti_affinity):
            placement = replace(placement, affinity=(), anti_affinity=())
        wanted = {"replicas": replicas, "task": spec, "placement": placement}
        if name in self.sim.services:
            if not self.sim.services[name].removing:
                self.sim.update(name, **wanted)
        else:
            self.sim.put_service(service(name, ports=PORTS[name], **wanted))

    @rule(name=names)
    def remove_service(self, name: str) -> None:
        if name in self.sim.services:
            self.sim.remove_service(name)

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

    @precondition(lambda self: self.sim.nodes)
    @rule(data=st.data(), zone=zones)
    def a_node_moves(self, data: st.DataObject, zone: str) -> None:
        self.sim.label(data.draw(st.sampled_from(sorted(self.sim.nodes))), zone=zone)

    @precondition(lambda self: self.sim.nodes)
    @rule(data=st.data())
    def a_node_leaves(self, data: st.DataObject) -> None:
        self.sim.remove_node(data.draw(st.sampled_from(sorted(self.sim.nodes))))

    @precondition(lambda self: self.joined < 6)
    @rule()
    def a_node_joins(self) -> None:
        self.joined += 1
        self.sim.add_node(f"node-{self.joined}")
        node = self.sim.nodes[f"node-{self.joined}"]
        self.sim.nodes[node.id] = replace(node, ingress_address=f"10.0.0.{200 + self.joined}")

    @rule(by_ns=st.sampled_from((SECOND, 5 * SECOND, 60 * SECOND, 25 * HOUR)))
    def time_passes(self, by_ns: int) -> None:
        self.sim.pass_time(by_ns)

    @rule()
    def nodes_work(self) -> None:
        self.sim.nodes_work()

    @rule()
    def the_leader_decides(self) -> None:
        self._check_decision()
        self.sim.step()

    @rule(data=st.data())
    def the_leader_decides_and_some_actions_lose(self, data: st.DataObject) -> None:
        self._check_decision()
        self.sim.step(keep=lambda action: data.draw(st.booleans()))

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.sim.settle(steps=20)
        assert self.sim.decide().actions == ()
        self._check_at_rest()

    @rule()
    def passes_alone_come_to_rest(self) -> None:
        """What a pass gives back, the next one may use, and the one after that has nothing left to do."""
        for _ in range(3):
            self.sim.step()
        assert self.sim.decide().actions == ()

    # --- what always holds ---

    def _check_decision(self) -> None:
        """A placement goes to a node that is ready, active, as the service wants it, and below its maximum."""
        placed: Counter[tuple[str, str]] = Counter()
        for action in self.sim.decide().actions:
            if not isinstance(action, CreateTask | UpdateTask) or action.task.state is not TaskState.ASSIGNED:
                continue
            old = self.sim.tasks.get(action.task.id)
            if old is not None and old.node_id:
                continue
            assert self.sim.node_statuses[action.task.node_id].state is NodeState.READY
            assert self.sim.nodes[action.task.node_id].spec.availability is Availability.ACTIVE
            assert self._suits(action.task)
            assert not self._repelled(action.task)
            placed[action.task.service_id, action.task.node_id] += 1
        for (service_id, _), count in placed.items():
            most = self.sim.services[service_id].spec.placement.max_replicas
            assert not most or count <= most

    @invariant()
    def no_more_tasks_are_to_run_than_were_asked_for(self) -> None:
        for name, wanted in self.sim.services.items():
            live = (task for task in self.sim.live(name) if self._sound(task))
            fresh = [task for task in live if task.spec_version == wanted.spec_version]
            slots = Counter(task.slot for task in fresh)
            # Two: one that is moved off a node, or was until a moment ago, and its successor.
            assert all(count <= 2 for count in slots.values())

    @invariant()
    def reservations_are_never_more_than_the_node_has(self) -> None:
        for node_id, status in self.sim.node_statuses.items():
            reserved = sum(task.spec.resources.reservations.nano_cpus for task in self._holding(node_id))
            assert reserved <= status.description.resources.nano_cpus

    @invariant()
    def a_host_port_has_one_holder_per_node(self) -> None:
        for node_id in self.sim.nodes:
            ports = [
                (port.protocol, port.published_port)
                for task in self._holding(node_id)
                for port in task.ports
                if port.publish_mode is PublishMode.HOST
            ]
            assert len(ports) == len(set(ports))

    @invariant()
    def no_address_is_given_twice(self) -> None:
        given = [each.address for task in self.sim.tasks.values() for each in task.attachments]
        given += [node.ingress_address for node in self.sim.nodes.values()]
        assert len(given) == len(set(given))
        assert "10.0.0.1" not in given

    @invariant()
    def states_only_grow_and_nodes_never_change(self) -> None:
        for task_id, task in self.sim.tasks.items():
            old = self.before.get(task_id)
            if old is not None:
                assert task.state >= old.state
                assert task.desired_state >= old.desired_state
                assert old.node_id in ("", task.node_id)
        self.before = dict(self.sim.tasks)

    def _suits(self, task: Task) -> bool:
        """Whether the task's node, if it has one, satisfies the constraints of its service."""
        node = self.sim.nodes.get(task.node_id)
        constraints = self.sim.services[task.service_id].spec.placement.constraints
        return node is None or not unmet(constraints, node, self.sim.node_statuses[node.id])

    def _repelled(self, task: Task) -> bool:
        """Whether the task's node has tasks of a service that its own wants to be apart from, or the other way."""
        wishes = {name: known.spec.placement.anti_affinity for name, known in self.sim.services.items()}
        present = {other.service_id for other in self._holding(task.node_id)}
        own = wishes[task.service_id]
        return any(other in own or task.service_id in wishes.get(other, ()) for other in present)

    def _sound(self, task: Task) -> bool:
        """Whether the task may stay where it is. Of one that may not, the order to stop may have got lost."""
        if not task.node_id:
            return True
        node, status = self.sim.nodes.get(task.node_id), self.sim.node_statuses.get(task.node_id)
        if node is None or status is None or status.state is NodeState.DOWN:
            return False
        return node.spec.availability is not Availability.DRAIN and self._suits(task)

    def _holding(self, node_id: str) -> Iterator[Task]:
        for task in self.sim.tasks.values():
            if task.node_id == node_id and not self.sim.state(task).finished:
                yield task

    def _check_at_rest(self) -> None:
        """As many slots as replicas, one task to run in each or a reason why not, and no more history than asked."""
        for name, wanted in self.sim.services.items():
            if wanted.removing:
                continue
            kept = [task for task in self.sim.of(name) if task.desired_state is not TaskState.REMOVE]
            per_slot = Counter(task.slot for task in kept)
            assert len(per_slot) == wanted.spec.replicas
            # One that leaves a node may be there beside its successor.
            staying = [task for task in self.sim.live(name) if self._sound(task)]
            assert len(staying) <= wanted.spec.replicas
            for task in self.sim.live(name):
                # A rollout that cannot go on keeps the tasks that it has not come to.
                assert task.spec_version <= wanted.spec_version
                assert task.state is TaskState.ASSIGNED or task.error or task.held
                assert self._suits(task)
            self._check_history(kept)

    def _check_history(self, kept: list[Task]) -> None:
        for slot in {task.slot for task in kept}:
            tries = [task for task in kept if task.slot == slot]
            attempts = tries[-1].spec.restart.max_attempts
            limit = attempts + 1 if attempts else HISTORY
            unfinished = sum(not self.sim.state(task).finished for task in tries)
            assert len(tries) <= max(limit, unfinished + 1)


Story.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStory = Story.TestCase
