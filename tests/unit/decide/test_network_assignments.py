"""What nodes are told of the networks of users: only where they have tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.assignments import (
    EndpointAssignment,
    NetworkAssignment,
    PeerAssignment,
    PortAssignment,
    ServiceAssignment,
    ServiceBackendAssignment,
    assignments,
    network_assignments,
    networks_of,
    peer_assignments,
    shared_assignments,
)
from minimanager.domain.objects import (
    Network,
    NetworkSpec,
    NetworkUse,
    PortLocality,
    ServiceMode,
    TaskState,
    VirtualAddress,
)
from support.simulation import Simulation, ingress_port, service, task_spec

BACKEND = Network(
    "backend-id", spec=NetworkSpec(name="backend"), subnet="10.0.1.0/24", gateway="10.0.1.1", vni=4097
)
SECURE = replace(BACKEND, id="secure-id", spec=NetworkSpec(name="secure", encrypted=True), vni=4098)


def attached(sim: Simulation, name: str = "db", *, network: Network = BACKEND, **changes: object) -> None:
    """A service of one task on the network."""
    task = replace(task_spec(), networks=(NetworkUse(network.id, ("store",)),))
    vips = (VirtualAddress(network.id, "10.0.1.200"),)
    sim.put_service(service(name, task=task, virtual_addresses=vips, **changes))
    sim.settle()


@pytest.fixture
def sim() -> Simulation:
    sim = Simulation(nodes=3)
    sim.networks |= {BACKEND.id: BACKEND, SECURE.id: SECURE}
    return sim


def service_item(sim: Simulation, name: str = "db") -> ServiceAssignment:
    item = network_assignments(sim.snapshot(), BACKEND.id)[f"service/backend-id/{name}"]
    assert isinstance(item, ServiceAssignment)
    return item


def test_a_node_is_told_of_a_network_only_while_it_has_a_task_there(sim: Simulation) -> None:
    attached(sim)
    (task,) = sim.running("db")
    snapshot = sim.snapshot()
    for node_id in sim.nodes:
        of_backend = {key for key in assignments(snapshot, node_id) if "backend-id" in key}
        here = {"network/backend-id", "endpoint/backend-id/10.0.1.2", "service/backend-id/db"}
        assert of_backend == (here if node_id == task.node_id else set())
    sim.report(task.id, TaskState.FAILED)
    assert networks_of(sim.snapshot(), task.node_id) == frozenset()
    assert networks_of(sim.snapshot(), "nobody") == frozenset()


def test_the_endpoints_are_those_of_all_nodes(sim: Simulation) -> None:
    attached(sim, replicas=3)
    endpoints = {
        (item.node_id, item.vtep)
        for item in network_assignments(sim.snapshot(), BACKEND.id).values()
        if isinstance(item, EndpointAssignment)
    }
    assert endpoints == {(f"node-{n}", f"10.77.0.{n + 10}") for n in (1, 2, 3)}
    assert network_assignments(sim.snapshot(), BACKEND.id)["network/backend-id"] == NetworkAssignment(
        BACKEND, ""
    )


def test_a_service_has_its_names_its_address_and_the_tasks_that_serve(sim: Simulation) -> None:
    attached(sim)
    (task,) = sim.running("db")
    backend = ServiceBackendAssignment(task.id, "10.0.1.2", task.node_id, 1, f"db.1.{task.id}")
    assert service_item(sim) == ServiceAssignment(
        BACKEND.id, "db", "db", ("store",), "10.0.1.200", (backend,)
    )


def test_backends_of_a_global_service_have_no_slot(sim: Simulation) -> None:
    attached(sim, mode=ServiceMode.GLOBAL)
    backends = service_item(sim).backends
    assert [backend.slot for backend in backends] == [0, 0, 0]
    assert [backend.task_id for backend in backends] == sorted(backend.task_id for backend in backends)


def test_a_task_that_is_to_stop_is_no_backend_any_more_but_has_its_endpoint(sim: Simulation) -> None:
    attached(sim, replicas=2)
    sim.update("db", replicas=1)
    sim.step()
    (stopping,) = [task for task in sim.of("db") if task.desired_state is TaskState.REMOVE]
    assert [backend.task_id for backend in service_item(sim).backends] == [
        task.id for task in sim.running("db")
    ]
    items = network_assignments(sim.snapshot(), BACKEND.id)
    assert any(
        isinstance(item, EndpointAssignment) and item.task_id == stopping.id for item in items.values()
    )


def test_a_service_without_tasks_is_there_with_its_address(sim: Simulation) -> None:
    attached(sim, replicas=0)
    assert (service_item(sim).virtual_address, service_item(sim).backends) == ("10.0.1.200", ())


def test_a_service_that_leaves_a_network_is_known_there_while_it_has_tasks_on_it(sim: Simulation) -> None:
    attached(sim)
    left = replace(sim.services["db"].spec.task, networks=())
    sim.put_service(
        replace(
            sim.services["db"],
            spec=replace(sim.services["db"].spec, task=left),
            virtual_addresses=(),
        )
    )
    item = service_item(sim)
    assert (item.aliases, item.virtual_address, len(item.backends)) == (("store",), "", 1)


def test_a_service_that_is_being_removed_has_no_name(sim: Simulation) -> None:
    attached(sim)
    sim.remove_service("db")
    assert "service/backend-id/db" not in network_assignments(sim.snapshot(), BACKEND.id)


def test_a_network_that_is_gone_is_nothing(sim: Simulation) -> None:
    assert network_assignments(sim.snapshot(), "gone") == {}


def test_nodes_on_encrypted_networks_know_each_other(sim: Simulation) -> None:
    for node_id in ("node-1", "node-2"):
        status = sim.node_statuses[node_id]
        sim.node_statuses[node_id] = replace(status, encryption_key=f"key of {node_id}")
    attached(sim, "plain")
    assert peer_assignments(sim.snapshot()) == {}
    attached(sim, network=SECURE, mode=ServiceMode.GLOBAL)
    assert peer_assignments(sim.snapshot()) == {
        "peer/node-1": PeerAssignment("node-1", "10.77.0.11", "key of node-1"),
        "peer/node-2": PeerAssignment("node-2", "10.77.0.12", "key of node-2"),
    }
    told = {
        node_id: {key for key in assignments(sim.snapshot(), node_id) if key.startswith("peer/")}
        for node_id in sim.nodes
    }
    assert told == {
        "node-1": {"peer/node-1", "peer/node-2"},
        "node-2": {"peer/node-1", "peer/node-2"},
        "node-3": set(),
    }


def test_a_published_port_has_its_options(sim: Simulation) -> None:
    port = replace(
        ingress_port(), host_ip="10.77.0.11", locality=PortLocality.ONLY, sticky=True, proxy_protocol=2
    )
    sim.put_service(service(ports=(port,)))
    item = shared_assignments(sim.snapshot())["port/tcp/80"]
    assert isinstance(item, PortAssignment)
    assert (item.host_ip, item.locality, item.sticky, item.proxy_protocol) == (
        "10.77.0.11",
        PortLocality.ONLY,
        True,
        2,
    )
