"""What holds in every story: users change their minds, tasks fail, nodes come and go, transactions get lost.

Each sentence is checked after every step, on the state that the store would hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from minimanager.decide.actions import CreateTask, UpdateTask
from minimanager.decide.restart import GATE_TIMEOUT_NS
from minimanager.decide.slots import is_outdated, is_released
from minimanager.domain.objects import (
    Availability,
    NodeState,
    Placement,
    PlacementStrategy,
    PublishMode,
    Task,
    TaskState,
)
from support.machine import SETTINGS, ClusterMachine, policies
from support.simulation import Simulation, host_port, ingress_port, service, task_spec

NAMES = ("api", "db", "web")
HISTORY = 3
PORTS = {
    "api": (ingress_port(80),),
    "db": (host_port(5432),),
    "web": (ingress_port(81), host_port(82)),
}

names = st.sampled_from(NAMES)
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


class Story(ClusterMachine):
    @initialize(nodes=st.integers(0, 3))
    def begin(self, nodes: int) -> None:
        self.start(Simulation(nodes, history=HISTORY))
        self.before: dict[str, Task] = {}
        self.joined = nodes
        self.asked: dict[str, int] = {}

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

    # --- what always holds ---

    def check_decision(self) -> None:
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
            assert self.suits(action.task)
            assert not self._repelled(action.task)
            placed[action.task.service_id, action.task.node_id] += 1
        for (service_id, _), count in placed.items():
            most = self.sim.services[service_id].spec.placement.max_replicas
            assert not most or count <= most

    @invariant()
    def a_slot_has_one_task_of_each_specification(self) -> None:
        for name in self.sim.services:
            tries = Counter((task.slot, task.spec_version) for task in self.settled(name))
            assert all(count == 1 for count in tries.values())

    @invariant()
    def a_slot_has_one_task_that_is_to_run(self) -> None:
        """On a node, that is. Unless its successor has waited in vain for a minute: an order was lost for as long."""
        for name in self.sim.services:
            patient = [t for t in self.settled(name) if self._age_ns(t) < GATE_TIMEOUT_NS]
            waited = {task.slot for task in self.settled(name)} - {task.slot for task in patient}
            on_nodes = (task for task in self.settled(name) if task.node_id)
            released = Counter(task.slot for task in on_nodes if is_released(task))
            assert all(count == 1 for slot, count in released.items() if slot not in waited)

    @invariant()
    def there_are_no_more_slots_than_were_asked_for(self) -> None:
        """A new slot is only made while there are too few, so they are as many as ever were asked for."""
        for name, wanted in self.sim.services.items():
            self.asked[name] = max(self.asked.get(name, 0), wanted.spec.replicas)
            kept = {t.slot for t in self.sim.of(name) if t.desired_state is not TaskState.REMOVE}
            assert len(kept) <= self.asked[name]

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

    def _repelled(self, task: Task) -> bool:
        """Whether the task's node has tasks of a service that its own wants to be apart from, or the other way."""
        wishes = {name: known.spec.placement.anti_affinity for name, known in self.sim.services.items()}
        present = {other.service_id for other in self._holding(task.node_id)}
        own = wishes[task.service_id]
        return any(other in own or task.service_id in wishes.get(other, ()) for other in present)

    def _age_ns(self, task: Task) -> int:
        return self.sim.now_ns - task.meta.created_at_ns

    def _holding(self, node_id: str) -> Iterator[Task]:
        for task in self.sim.tasks.values():
            if task.node_id == node_id and not self.sim.state(task).finished:
                yield task

    def check_at_rest(self) -> None:
        """As many slots as replicas, one task to run in each or a reason why not, and no more history than asked."""
        for name, wanted in self.sim.services.items():
            if wanted.removing:
                continue
            kept = [task for task in self.sim.of(name) if task.desired_state is not TaskState.REMOVE]
            assert len({task.slot for task in kept}) == wanted.spec.replicas
            # One that leaves a node may be there beside its successor.
            staying = Counter(task.slot for task in self.sim.live(name) if self.sound(task))
            assert all(count == 1 for count in staying.values())
            for task in self.sim.live(name):
                assert task.state is TaskState.ASSIGNED or task.error or task.held
                assert self.suits(task)
                assert task.spec_version == wanted.spec_version or self._may_be_old(task)
            self._check_history(kept)

    def _may_be_old(self, task: Task) -> bool:
        """A rollout that waits, or has been given up, keeps the tasks that it has not come to; all others are new."""
        rollout = self.sim.rollouts[task.service_id]
        service = self.sim.services[task.service_id]
        if rollout.state.active:
            lanes = [
                other
                for other in self.sim.live(task.service_id)
                if not is_outdated(other, service) and self.sim.state(other) is not TaskState.RUNNING
            ]
            return bool(lanes) or self.sim.wake_at_ns is not None
        return not rollout.state.completed

    def _check_history(self, kept: list[Task]) -> None:
        for slot in {task.slot for task in kept}:
            tries = [task for task in kept if task.slot == slot]
            attempts = tries[-1].spec.restart.max_attempts
            limit = attempts + 1 if attempts else HISTORY
            unfinished = sum(not self.sim.state(task).finished for task in tries)
            assert len(tries) <= max(limit, unfinished + 1)


Story.TestCase.settings = SETTINGS
TestStory = Story.TestCase
