"""What holds in every story of global services and jobs: changes of mind, failures, nodes that come and go."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from minimanager.decide.jobs import concurrency
from minimanager.decide.slots import is_active
from minimanager.domain.objects import Availability, NodeState, RestartPolicy, ServiceMode, TaskState
from support.machine import SETTINGS, ClusterMachine, policies
from support.simulation import Simulation, service, task_spec

MODES = {
    "agent": ServiceMode.GLOBAL,
    "batch": ServiceMode.REPLICATED_JOB,
    "once": ServiceMode.GLOBAL_JOB,
}
names = st.sampled_from(sorted(MODES))


class Story(ClusterMachine):
    @initialize(nodes=st.integers(0, 3))
    def begin(self, nodes: int) -> None:
        self.start(Simulation(nodes))
        self.done: set[tuple[str, int, object]] = set()

    @rule(name=names, policy=policies, replicas=st.integers(0, 4), most=st.integers(0, 3))
    def create_or_update(self, name: str, policy: RestartPolicy, replicas: int, most: int) -> None:
        wanted: dict[str, object] = {"task": task_spec(restart=policy), "replicas": 0}
        if name == "batch":
            wanted |= {"replicas": replicas, "max_concurrent": most}
        if name in self.sim.services:
            self.sim.update(name, **wanted)
        else:
            self.sim.put_service(service(name, mode=MODES[name], **wanted))

    def check_at_rest(self) -> None:
        if "agent" in self.sim.services:
            self._check_every_node_has_one()

    def _check_every_node_has_one(self) -> None:
        """Unless its restart policy has given up there."""
        fit = {
            node_id
            for node_id, node in self.sim.nodes.items()
            if node.spec.availability is Availability.ACTIVE
            and self.sim.node_statuses[node_id].state is NodeState.READY
        }
        tried = {task.bound_node_id for task in self.sim.of("agent")}
        assert fit <= tried

    @invariant()
    def a_place_has_one_task_that_is_to_run(self) -> None:
        for name in MODES:
            version = self.sim.services[name].spec_version if name in self.sim.services else 0
            fresh = [task for task in self.sim.live(name) if task.spec_version == version]
            per_place = Counter(task.place for task in fresh)
            assert all(count == 1 for count in per_place.values())

    @invariant()
    def a_task_is_only_ever_on_the_node_that_is_its_place(self) -> None:
        for task in self.sim.tasks.values():
            assert task.bound_node_id == "" or task.node_id in ("", task.bound_node_id)

    @invariant()
    def no_more_of_a_job_is_to_run_than_may_at_once(self) -> None:
        """Beside those of a larger number that was asked for before, until the leader has looked."""
        if (job := self.sim.services.get("batch")) is not None:
            fresh = [task for task in self.sim.live("batch") if task.spec_version == job.spec_version]
            assert len(fresh) <= concurrency(job.spec)

    @invariant()
    def what_is_done_is_not_done_again(self) -> None:
        for name in ("batch", "once"):
            for task in self.sim.of(name):
                if self.sim.state(task) is TaskState.COMPLETE and is_active(task):
                    self.done.add((name, task.spec_version, task.place))
        for name in ("batch", "once"):
            for task in self.sim.of(name):
                if self.sim.state(task) is TaskState.RUNNING and is_active(task):
                    assert (name, task.spec_version, task.place) not in self.done


Story.TestCase.settings = SETTINGS
TestStory = Story.TestCase
