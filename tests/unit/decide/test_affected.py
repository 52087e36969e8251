"""Which services a change makes dirty."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minimanager.decide.actions import NETWORKS
from minimanager.decide.reconcile import affected, everything
from minimanager.domain.objects import (
    Availability,
    ClusterSpec,
    Network,
    NetworkSpec,
    NodeRole,
    NodeState,
    Object,
    Placement,
    RemovedNode,
    TaskState,
    VirtualAddress,
)
from support.simulation import INGRESS, Simulation, ingress_port, service, task_spec

NONE: frozenset[str] = frozenset()


@pytest.fixture
def sim() -> Simulation:
    """`here` runs on node-1, `there` on node-2, and `stuck` waits for a node big enough."""
    sim = Simulation(nodes=2)
    sim.put_service(service("here", ports=(ingress_port(),)))
    sim.settle()
    sim.put_service(service("there"))
    sim.settle()
    sim.put_service(service("stuck", task=task_spec(nano_cpus=10**12)))
    sim.settle()
    assert (sim.where("here"), sim.where("there"), sim.where("stuck")) == (
        {1: "node-1"},
        {1: "node-2"},
        {1: ""},
    )
    return sim


def dirty(sim: Simulation, kind: str, old: Object | None, new: Object | None) -> frozenset[str]:
    return affected(sim.snapshot(), kind, old, new)


def test_a_service_concerns_itself(sim: Simulation) -> None:
    web = sim.services["here"]
    assert dirty(sim, "service", web, replace(web, removing=True)) == {"here"}
    assert dirty(sim, "service", None, web) == dirty(sim, "service", web, None) == {"here"}
    apart = replace(web, spec=replace(web.spec, placement=Placement(anti_affinity=("stuck",))))
    assert dirty(sim, "service", web, apart) == {"here"}
    assert dirty(sim, "service", apart, web) == dirty(sim, "service", apart, None) == {"here", "stuck"}


def test_a_task_concerns_its_service_and_when_it_makes_room_those_that_wait(sim: Simulation) -> None:
    (task,) = sim.of("here")
    assert dirty(sim, "task", task, replace(task, desired_state=TaskState.SHUTDOWN)) == {"here"}
    assert dirty(sim, "task", None, task) == {"here"}
    assert dirty(sim, "task", task, replace(task, attachments=())) == {"here", "stuck"}
    assert dirty(sim, "task", task, replace(task, state=TaskState.ORPHANED)) == {"here", "stuck"}
    assert dirty(sim, "task", task, None) == {"here", "stuck"}
    (waiting,) = sim.of("stuck")
    assert dirty(sim, "task", waiting, None) == {"stuck"}


def test_of_a_status_the_end_matters(sim: Simulation) -> None:
    status = sim.statuses[sim.of("there")[0].id]
    ended = replace(status, state=TaskState.FAILED)
    assert dirty(sim, "status", status, replace(status, message="x")) == NONE
    assert dirty(sim, "status", status, None) == NONE
    assert dirty(sim, "status", ended, replace(ended, message="x")) == NONE
    assert dirty(sim, "status", status, ended) == dirty(sim, "status", None, ended) == {"there", "stuck"}
    assert dirty(sim, "status", None, replace(ended, id="unknown")) == {"stuck"}


def test_a_beginning_matters_where_a_task_may_be_there_to_be_replaced(sim: Simulation) -> None:
    (task,) = sim.of("there")
    status = sim.statuses[task.id]
    starting = replace(status, state=TaskState.STARTING)
    assert dirty(sim, "status", starting, status) == NONE
    sim.tasks["twin"] = replace(task, id="twin")
    assert dirty(sim, "status", starting, status) == dirty(sim, "status", None, status) == {"there"}
    assert dirty(sim, "status", status, replace(status, pid=7)) == NONE
    assert dirty(sim, "status", None, starting) == NONE


def test_a_node_concerns_the_services_on_it_and_those_that_wait(sim: Simulation) -> None:
    node = sim.nodes["node-1"]
    drained = replace(node, spec=replace(node.spec, availability=Availability.DRAIN))
    assert dirty(sim, "node", node, drained) == {"here", "stuck"}
    assert dirty(sim, "node", node, None) == {"here", "stuck"}
    for changed in ({"labels": {"a": "b"}}, {"role": NodeRole.MANAGER}):
        assert dirty(sim, "node", node, replace(node, spec=replace(node.spec, **changed))) == {
            "here",
            "stuck",
        }
    assert dirty(sim, "node", node, replace(node, spec=replace(node.spec, name="other"))) == NONE


def test_of_a_nodes_status_its_state_and_what_it_is_matter(sim: Simulation) -> None:
    status = sim.node_statuses["node-2"]
    resources = replace(status.description.resources, nano_cpus=10**13)
    bigger = replace(status, description=replace(status.description, resources=resources))
    assert dirty(sim, "node-status", status, replace(status, state=NodeState.DOWN)) == {"there", "stuck"}
    assert dirty(sim, "node-status", status, bigger) == {"there", "stuck"}
    renamed = replace(status, description=replace(status.description, hostname="other"))
    labelled = replace(status, description=replace(status.description, engine_labels={"a": "b"}))
    for changed in (renamed, labelled, replace(status, address="10.77.0.99")):
        assert dirty(sim, "node-status", status, changed) == {"there", "stuck"}
    assert dirty(sim, "node-status", status, replace(status, since_ns=1)) == NONE


def test_networks_concern_those_that_wait_and_the_history_limit_everybody(sim: Simulation) -> None:
    assert dirty(sim, "network", None, INGRESS) == {"stuck"}
    assert sim.cluster is not None
    assert (
        dirty(sim, "cluster", sim.cluster, replace(sim.cluster, removed_nodes=(RemovedNode("x", 1),))) == NONE
    )
    shorter = replace(sim.cluster, spec=ClusterSpec(task_history_limit=1))
    assert dirty(sim, "cluster", sim.cluster, shorter) == {"here", "there", "stuck"}
    assert dirty(sim, "cluster", None, None) == NONE


def test_everything_includes_services_that_have_only_left_tasks(sim: Simulation) -> None:
    del sim.services["there"]
    assert everything(sim.snapshot()) == {"here", "there", "stuck"}


def test_a_network_that_is_to_go_is_looked_at_when_an_address_is_given_back(sim: Simulation) -> None:
    leaving = Network("n", spec=NetworkSpec(name="n"), subnet="10.9.0.0/24", removing=True)
    assert NETWORKS not in everything(sim.snapshot())
    sim.networks["n"] = leaving
    assert NETWORKS in everything(sim.snapshot())
    assert dirty(sim, "network", replace(leaving, removing=False), leaving) == {"stuck", NETWORKS}
    (task,) = sim.of("here")
    assert NETWORKS in dirty(sim, "task", task, replace(task, attachments=()))
    assert NETWORKS not in dirty(sim, "task", task, replace(task, message="other"))


def test_an_address_that_a_service_gives_back_may_be_waited_for(sim: Simulation) -> None:
    web = replace(sim.services["here"], virtual_addresses=(VirtualAddress("n", "10.9.0.254"),))
    assert dirty(sim, "service", web, replace(web, virtual_addresses=())) == {"here", "stuck"}
    assert dirty(sim, "service", web, replace(web, removing=True)) == {"here", "stuck"}
    assert dirty(sim, "service", replace(web, virtual_addresses=()), web) == {"here"}
