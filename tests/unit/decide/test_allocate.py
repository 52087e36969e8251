"""Addresses of tasks."""

from __future__ import annotations

from dataclasses import replace

from minimanager.domain.objects import NetworkAttachment, TaskState
from support.simulation import INGRESS, Simulation, host_port, ingress_port, service


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
