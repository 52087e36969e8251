"""Addresses of tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide import allocate
from minimanager.decide.scheduler.why import why
from minimanager.domain.addresses import AddressPool
from minimanager.domain.leases import task_pool
from minimanager.domain.objects import (
    Meta,
    Network,
    NetworkAttachment,
    NetworkSpec,
    NetworkUse,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    TaskSpec,
    TaskState,
    VirtualAddress,
)
from minimanager.domain.one_off import LABEL
from minimanager.domain.snapshot import Snapshot
from support.simulation import INGRESS, Simulation, host_port, ingress_port, service, task_spec


def addresses(sim: Simulation) -> list[str]:
    return [each.address for task in sim.of() for each in task.attachments]


def test_only_services_with_ingress_ports_need_addresses() -> None:
    sim = Simulation()
    sim.put_service(service("plain"))
    sim.put_service(service("host", ports=(host_port(),)))
    sim.put_service(service("web", ports=(ingress_port(),)))
    sim.settle()
    assert [len(sim.running(name)[0].attachments) for name in ("plain", "host", "web")] == [0, 0, 1]


def test_gateway_and_node_addresses_are_never_given_out() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=3, ports=(ingress_port(),)))
    sim.settle()
    assert addresses(sim) == ["10.0.0.5", "10.0.0.6", "10.0.0.7"]


def test_an_ended_task_gives_its_address_back_and_the_successor_gets_another() -> None:
    sim = Simulation()
    sim.put_service(service(ports=(ingress_port(),)))
    sim.settle()
    (task,) = sim.running()
    sim.report(task.id, TaskState.FAILED)
    sim.step()
    assert sim.tasks[task.id].attachments == ()
    assert addresses(sim) == ["10.0.0.6"]


def test_when_no_address_is_left_the_task_says_so_and_gets_the_next_one() -> None:
    sim = Simulation(nodes=2, network=replace(INGRESS, subnet="10.0.0.0/29"))
    sim.put_service(service(replicas=4, ports=(ingress_port(),)))
    sim.settle()
    waiting = sim.of()[-1]
    assert (len(sim.running()), waiting.state) == (3, TaskState.NEW)
    assert waiting.error == "network ingress: no free address in 10.0.0.0/29: all 5 are in use"
    sim.report(sim.running()[0].id, TaskState.COMPLETE)
    sim.step()
    sim.step()
    assert sim.tasks[waiting.id].state is TaskState.ASSIGNED
    assert sim.tasks[waiting.id].error == ""


def test_without_an_ingress_network_the_task_waits() -> None:
    sim = Simulation(network=None)
    sim.put_service(service(ports=(ingress_port(),)))
    sim.settle()
    (task,) = sim.of()
    assert (task.state, task.error) == (
        TaskState.NEW,
        "the cluster has no ingress network to publish ports on",
    )
    sim.networks[INGRESS.id] = INGRESS
    sim.settle()
    assert len(sim.running()) == 1


def test_addresses_on_other_networks_do_not_count() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service(ports=(ingress_port(),)))
    sim.step()
    (task,) = sim.of()
    elsewhere = replace(task, id="elsewhere", slot=2, attachments=(NetworkAttachment("other", "10.0.0.3"),))
    sim.tasks[elsewhere.id] = elsewhere
    sim.update(replicas=3)
    sim.step()
    assert addresses(sim) == ["10.0.0.2", "10.0.0.3", "10.0.0.3"]


# --- the networks of users ---

BACKEND = Network("backend", spec=NetworkSpec(name="backend"), subnet="10.0.1.0/24", gateway="10.0.1.1")
TINY = Network("tiny", spec=NetworkSpec(name="tiny"), subnet="10.0.2.0/29", gateway="10.0.2.1")


@pytest.fixture
def sim() -> Simulation:
    sim = Simulation(nodes=2)
    sim.networks |= {BACKEND.id: BACKEND, TINY.id: TINY}
    return sim


def on(*networks: Network) -> TaskSpec:
    return replace(task_spec(), networks=tuple(NetworkUse(network.id) for network in networks))


def test_a_task_has_an_address_on_each_of_its_networks_ingress_first(sim: Simulation) -> None:
    sim.put_service(service(task=on(BACKEND, TINY), ports=(ingress_port(),)))
    sim.settle()
    (task,) = sim.running()
    assert task.attachments == (
        NetworkAttachment(INGRESS.id, "10.0.0.4"),
        NetworkAttachment(BACKEND.id, "10.0.1.2"),
        NetworkAttachment(TINY.id, "10.0.2.2"),
    )


def test_addresses_of_services_are_not_given_to_tasks(sim: Simulation) -> None:
    own = VirtualAddress(TINY.id, "10.0.2.2")
    sim.put_service(service(task=on(TINY), virtual_addresses=(own,)))
    sim.settle()
    assert addresses(sim) == ["10.0.2.3"]


def test_a_task_gets_all_its_addresses_or_none(sim: Simulation) -> None:
    sim.put_service(service("full", replicas=5, task=on(TINY)))
    sim.settle()
    sim.put_service(service(task=on(BACKEND, TINY)))
    sim.settle()
    (waiting,) = sim.of("web")
    assert (waiting.state, waiting.attachments) == (TaskState.NEW, ())
    assert waiting.error == "network tiny: no free address in 10.0.2.0/29: all 5 are in use"
    answer = why(sim.snapshot(), waiting, sim.now_ns)
    assert answer.summary == f"{waiting.name} waits for an address: {waiting.error}"
    assert answer.help == (
        f"free an address of network tiny, or make one with a larger subnet and update {waiting.service_name} to it",
    )
    sim.update("full", replicas=4)
    sim.settle()
    assert [task.error for task in sim.running("web")] == [""]


def test_a_network_that_is_gone_or_going_takes_no_task(sim: Simulation) -> None:
    sim.networks[BACKEND.id] = replace(BACKEND, meta=Meta(version=7), removing=True)
    sim.put_service(service(task=on(BACKEND)))
    sim.step()
    assert [task.error for task in sim.of()] == ["network backend is being removed"]
    assert BACKEND.id not in sim.networks
    sim.step()
    assert [task.error for task in sim.of()] == ["network backend not found"]


def test_the_tasks_of_a_network_are_looked_at_once_in_a_pass(
    sim: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counting(snapshot: Snapshot, network: Network) -> AddressPool:
        made.append(network.id)
        return task_pool(snapshot, network)

    monkeypatch.setattr(allocate, "task_pool", counting)
    for name in ("api", "db", "web"):
        sim.put_service(service(name, replicas=4, task=on(BACKEND)))
    sim.step()
    assert made == [BACKEND.id]


def test_a_network_to_be_removed_goes_with_the_last_address_on_it(sim: Simulation) -> None:
    sim.networks[BACKEND.id] = replace(BACKEND, meta=Meta(version=7))
    sim.put_service(service(task=on(BACKEND)))
    sim.settle()
    sim.remove_service()
    sim.networks[BACKEND.id] = replace(sim.networks[BACKEND.id], removing=True)
    sim.step()
    assert BACKEND.id in sim.networks
    sim.settle()
    assert BACKEND.id not in sim.networks


def test_a_container_of_its_own_changes_its_networks_while_it_runs() -> None:
    sim = Simulation(nodes=1)
    for number, name in enumerate(("front", "back"), 1):
        subnet = f"10.0.{number}.0/24"
        sim.networks[name] = Network(
            name, spec=NetworkSpec(name=name), subnet=subnet, gateway=f"10.0.{number}.1", vni=4096 + number
        )
    once = task_spec(restart=RestartPolicy(RestartCondition.NONE))
    job = service("one", task=once, mode=ServiceMode.REPLICATED_JOB, labels={LABEL: "detached,keep,m,r"})
    sim.put_service(job)
    sim.settle()
    (task,) = sim.running("one")

    def on(*names: str) -> list[tuple[str, str]]:
        uses = tuple(NetworkUse(name) for name in names)
        sim.services["one"] = replace(job, spec=replace(job.spec, task=replace(once, networks=uses)))
        sim.settle()
        (same,) = sim.of("one")
        assert (same.id, same.state, same.spec.networks) == (task.id, task.state, uses)
        return [(each.network_id, each.address) for each in same.attachments]

    assert on("front") == [("front", "10.0.1.2")]
    assert on("front", "back") == [("front", "10.0.1.2"), ("back", "10.0.2.2")]
    assert on("back") == [("back", "10.0.2.2")]
    assert on() == []
    assert sim.step() == ()
