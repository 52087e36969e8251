"""Addresses in every story: services come, change and go, tasks end, transactions get lost, a network is removed.

Each sentence is checked after every step, on the state that the store would hold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from minicommon.errors import ResourceExhaustedError
from minimanager.domain.leases import virtual_addresses
from minimanager.domain.objects import EndpointMode, Meta, Network, NetworkSpec, NetworkUse, TaskState
from minimanager.domain.usage import in_use_by
from minimanager.domain.validate import begins_anew
from support.simulation import INGRESS, Simulation, ingress_port, service, task_spec

SMALL = Network(
    "small", meta=Meta(version=1), spec=NetworkSpec(name="small"), subnet="10.0.1.0/29", gateway="10.0.1.1"
)
RANGE = Network(
    "range",
    meta=Meta(version=1),
    spec=NetworkSpec(name="range", ip_range="10.0.2.128/29"),
    subnet="10.0.2.0/24",
    gateway="10.0.2.130",
)
NETWORKS = {"small": SMALL, "range": RANGE}
NAMES = ("api", "db", "web")

names = st.sampled_from(NAMES)
uses = st.lists(st.sampled_from(tuple(NETWORKS)), max_size=2, unique=True)


class Story(RuleBasedStateMachine):
    @initialize(nodes=st.integers(1, 3))
    def begin(self, nodes: int) -> None:
        self.sim = Simulation(nodes, history=1, network=replace(INGRESS, subnet="10.0.0.0/28"))
        self.sim.networks |= NETWORKS

    # --- what happens ---

    @rule(
        name=names,
        replicas=st.integers(0, 5),
        networks=uses,
        mode=st.sampled_from(EndpointMode),
        published=st.booleans(),
    )
    def create_or_update(
        self, name: str, replicas: int, networks: list[str], mode: EndpointMode, published: bool
    ) -> None:
        known = [NetworkUse(each) for each in networks if self._joinable(each)]
        ports = (ingress_port(80 + NAMES.index(name)),) if published and mode is EndpointMode.VIP else ()
        old = self.sim.services.get(name) or service(name)
        if old.removing:
            return
        task = replace(task_spec(), networks=tuple(known))
        spec = replace(old.spec, replicas=replicas, task=task, endpoint_mode=mode, ports=ports)
        try:
            own = virtual_addresses(self.sim.snapshot(), spec, old)
        except ResourceExhaustedError:
            return
        version = old.spec_version + begins_anew(old.spec, spec)
        self.sim.put_service(
            replace(old, spec=spec, spec_version=version, ports=ports, virtual_addresses=own)
        )

    @rule(name=names)
    def remove_service(self, name: str) -> None:
        if name in self.sim.services:
            self.sim.remove_service(name)

    @rule(network_id=st.sampled_from(tuple(NETWORKS)))
    def remove_network(self, network_id: str) -> None:
        network = self.sim.networks.get(network_id)
        if network is not None and not in_use_by(self.sim.snapshot(), network):
            self.sim.networks[network_id] = replace(network, removing=True)

    @precondition(lambda self: self.sim.tasks)
    @rule(data=st.data(), state=st.sampled_from((TaskState.COMPLETE, TaskState.FAILED)))
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        task = self.sim.tasks[data.draw(st.sampled_from(sorted(self.sim.tasks)))]
        if task.node_id:
            self.sim.report(task.id, state)

    @rule()
    def nodes_work(self) -> None:
        self.sim.nodes_work()

    @rule()
    def the_leader_decides(self) -> None:
        self.sim.step()

    @rule(data=st.data())
    def the_leader_decides_and_some_actions_lose(self, data: st.DataObject) -> None:
        self.sim.step(keep=lambda action: data.draw(st.booleans()))

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.sim.settle_over_time()
        for task in self.sim.tasks.values():
            assert not (task.attachments and self.sim.state(task).finished)
        for name in self.sim.services:
            for task in self.sim.live(name):
                assert task.state is TaskState.ASSIGNED or self._waits_for_good_reason(task.error)
        for network in self.sim.networks.values():
            assert not network.removing or self.sim.snapshot().of_network(network.id)

    # --- what always holds ---

    @invariant()
    def no_address_is_given_twice(self) -> None:
        given = Counter(self._given())
        assert not [each for each, count in given.items() if count > 1]

    @invariant()
    def addresses_are_those_of_their_network(self) -> None:
        for network_id, address in self._given():
            network = self.sim.networks[network_id]
            subnet = IPv4Network(network.spec.ip_range or network.subnet)
            whole = IPv4Network(network.subnet)
            assert IPv4Address(address) in subnet
            assert address not in (network.gateway, str(whole.network_address), str(whole.broadcast_address))

    def _given(self) -> list[tuple[str, str]]:
        given = [
            (each.network_id, each.address) for task in self.sim.tasks.values() for each in task.attachments
        ]
        given += [
            (each.network_id, each.address)
            for known in self.sim.services.values()
            if not known.removing
            for each in known.virtual_addresses
        ]
        return given + [(INGRESS.id, node.ingress_address) for node in self.sim.nodes.values()]

    def _joinable(self, network_id: str) -> bool:
        network = self.sim.networks.get(network_id)
        return network is not None and not network.removing

    def _waits_for_good_reason(self, error: str) -> bool:
        """An address that is missing is missing: the network is full, or is going away."""
        if error.endswith(("not found", "is being removed")):
            return True
        network = next(
            each for each in self.sim.networks.values() if error.startswith(f"network {each.spec.name}: ")
        )
        used = [address for network_id, address in self._given() if network_id == network.id]
        room = 5 if network.id == "small" else 7 if network.id == "range" else 13
        return len(used) == room


Story.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStory = Story.TestCase
