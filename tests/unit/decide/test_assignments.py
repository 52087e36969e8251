"""What nodes are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.assignments import (
    EndpointAssignment,
    KeptAssignment,
    NetworkAssignment,
    PortAssignment,
    TaskAssignment,
    address_on,
    assignments,
    left_tables_at,
    own_assignments,
    shared_assignments,
)
from minimanager.domain.objects import NodeState, TaskState
from support.simulation import INGRESS, Simulation, host_port, ingress_port, service, task_spec


@pytest.fixture
def sim() -> Simulation:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=2, ports=(ingress_port(80), host_port(81))))
    sim.settle()
    return sim


def port(sim: Simulation) -> PortAssignment:
    item = shared_assignments(sim.snapshot())["port/tcp/80"]
    assert isinstance(item, PortAssignment)
    return item


def backends(sim: Simulation) -> list[str]:
    return [backend.task_id for backend in port(sim).backends]


def test_a_node_gets_its_tasks_its_network_and_everybodys_endpoints(sim: Simulation) -> None:
    (here,) = [task for task in sim.running() if task.node_id == "node-1"]
    told = assignments(sim.snapshot(), "node-1")

    assert told["network/ingress-id"] == NetworkAssignment(INGRESS, "10.0.0.2")
    item = told[f"task/{here.id}"]
    assert isinstance(item, TaskAssignment)
    assert (item.name, item.slot, item.ports, item.attachments) == (
        here.name,
        here.slot,
        here.ports,
        here.attachments,
    )
    assert [key for key in told if key.startswith("task/")] == [f"task/{here.id}"]
    assert {key for key in told if key.startswith("endpoint/")} == {
        f"endpoint/ingress-id/10.0.0.{last}" for last in (2, 3, 4, 5)
    }
    address = address_on(here, INGRESS.id)
    assert told[f"endpoint/ingress-id/{address}"] == EndpointAssignment(
        INGRESS.id, address, "node-1", "10.77.0.11", here.id
    )
    assert told["endpoint/ingress-id/10.0.0.3"] == EndpointAssignment(
        INGRESS.id, "10.0.0.3", "node-2", "10.77.0.12"
    )


def test_published_ports_have_the_running_tasks_in_order(sim: Simulation) -> None:
    assert backends(sim) == sorted(task.id for task in sim.running())
    item = port(sim)
    assert (item.published_port, item.target_port, item.service_name) == (80, 8080, "web")
    assert not any(key.startswith("port/tcp/81") for key in shared_assignments(sim.snapshot()))


def test_a_task_that_is_to_stop_leaves_the_backends_at_once(sim: Simulation) -> None:
    sim.update(replicas=1)
    sim.step()
    stopping = next(task for task in sim.of() if task.desired_state is TaskState.REMOVE)
    assert stopping.id not in backends(sim)
    assert f"task/{stopping.id}" in own_assignments(sim.snapshot(), stopping.node_id)
    assert any(
        isinstance(item, EndpointAssignment) and item.task_id == stopping.id
        for item in shared_assignments(sim.snapshot()).values()
    )


def test_of_a_task_that_has_ended_only_the_container_is_kept(sim: Simulation) -> None:
    (first, *_) = sim.running()
    sim.report(first.id, TaskState.FAILED)
    told = own_assignments(sim.snapshot(), first.node_id)
    assert f"task/{first.id}" not in told
    assert told[f"kept/{first.id}"] == KeptAssignment(first.id)
    assert first.id not in backends(sim)
    assert f"endpoint/ingress-id/{address_on(first, INGRESS.id)}" not in shared_assignments(sim.snapshot())


def test_tasks_that_do_not_run_yet_or_are_on_a_lost_node_get_no_traffic(sim: Simulation) -> None:
    sim.update(replicas=3)
    sim.set_node("node-2", NodeState.DOWN)
    assert {sim.tasks[task_id].node_id for task_id in backends(sim)} == {"node-1"}
    sim.set_node("node-2", NodeState.DISCONNECTED)
    assert len(backends(sim)) == 2
    del sim.node_statuses["node-2"]
    assert len(backends(sim)) == 1
    sim.remove_node("node-1")
    assert backends(sim) == []


def test_an_unhealthy_task_gets_no_traffic_while_it_is_stopped(sim: Simulation) -> None:
    sick, well = backends(sim)
    sim.statuses[sick] = replace(sim.statuses[sick], unhealthy=True)
    assert backends(sim) == [well]


def test_a_task_that_is_not_ready_gets_no_traffic_until_it_is_again(sim: Simulation) -> None:
    first, second = backends(sim)
    well = sim.statuses[first]
    sim.statuses[first] = replace(well, not_ready=True)
    assert backends(sim) == [second]
    sim.statuses[first] = well
    assert backends(sim) == [first, second]


def test_a_task_leaves_the_tables_at_the_revision_of_its_last_change(sim: Simulation) -> None:
    (first, second) = sim.running()
    assert left_tables_at(sim.snapshot(), first) == 0
    sim.update(replicas=1)
    sim.step()
    stopping = next(task for task in sim.of() if task.desired_state is TaskState.REMOVE)
    assert left_tables_at(sim.snapshot(), stopping) == stopping.meta.version > 0
    item = own_assignments(sim.snapshot(), stopping.node_id)[f"task/{stopping.id}"]
    assert isinstance(item, TaskAssignment)
    assert (item.left_at, item.withdrawn) == (stopping.meta.version, False)
    staying = second if stopping.id == first.id else first
    status = sim.statuses[staying.id]
    sim.statuses[staying.id] = replace(status, unhealthy=True, meta=replace(status.meta, version=77))
    assert left_tables_at(sim.snapshot(), staying) == 77


def test_a_task_that_nobody_could_send_anything_is_withdrawn_from_the_beginning(sim: Simulation) -> None:
    sim.update(replicas=1)
    sim.step()
    stopping = next(task for task in sim.of() if task.desired_state is TaskState.REMOVE)
    sim.tasks[stopping.id] = replace(stopping, attachments=())
    item = own_assignments(sim.snapshot(), stopping.node_id)[f"task/{stopping.id}"]
    assert isinstance(item, TaskAssignment)
    assert (item.left_at, item.withdrawn) == (0, True)


def test_a_service_that_is_being_removed_has_no_ports(sim: Simulation) -> None:
    sim.remove_service()
    assert "port/tcp/80" not in shared_assignments(sim.snapshot())


def test_an_unknown_node_and_a_cluster_without_ingress_are_told_little(sim: Simulation) -> None:
    assert own_assignments(sim.snapshot(), "nobody") == {}
    bare = replace(sim.snapshot(), networks={})
    assert shared_assignments(bare) == {}
    assert all(key.startswith("task/") for key in assignments(bare, "node-1"))


def test_nodes_without_addresses_have_no_endpoints(sim: Simulation) -> None:
    sim.nodes["node-1"] = replace(sim.nodes["node-1"], ingress_address="")
    sim.node_statuses["node-2"] = replace(sim.node_statuses["node-2"], address="")
    endpoints = [
        item for item in shared_assignments(sim.snapshot()).values() if isinstance(item, EndpointAssignment)
    ]
    assert [(item.node_id, bool(item.task_id)) for item in endpoints] == [("node-1", True)]


def test_what_only_managers_need_does_not_change_an_assignment(sim: Simulation) -> None:
    (first, *_) = sim.running()
    before = own_assignments(sim.snapshot(), first.node_id)
    sim.tasks[first.id] = replace(first, message="other", not_before_ns=1)
    assert own_assignments(sim.snapshot(), first.node_id) == before


def test_a_service_without_ports_publishes_nothing() -> None:
    sim = Simulation()
    sim.put_service(service(task=task_spec()))
    sim.settle()
    assert not any(key.startswith("port/") for key in shared_assignments(sim.snapshot()))
