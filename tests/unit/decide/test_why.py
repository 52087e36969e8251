"""Why a task is where it is: each node's reason in numbers, and the smallest change that would help."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from minimanager.decide.overlay import Overlay
from minimanager.decide.scheduler.demand import demand_of
from minimanager.decide.scheduler.filters import refusals
from minimanager.decide.scheduler.nodes import columns
from minimanager.decide.scheduler.obstacles import obstacles
from minimanager.decide.scheduler.why import Answer, why
from minimanager.domain.objects import SECOND, Availability, NodeState, Placement, TaskState
from support.simulation import GIB, Simulation, host_port, ingress_port, service, task_spec

EU = Placement(constraints=("node.labels.zone==eu",))


def answer(sim: Simulation) -> Answer:
    return why(sim.snapshot(), sim.of()[-1], sim.now_ns)


def reasons(sim: Simulation) -> dict[str, list[tuple[str, str]]]:
    return {
        each.node_id: [(obstacle.filter, obstacle.reason) for obstacle in each.obstacles]
        for each in answer(sim).refusals
    }


def test_missing_resources_are_told_in_numbers_and_the_least_is_asked_for() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service("first", replicas=2, task=task_spec(nano_cpus=10**9)))
    sim.put_service(service("more", task=task_spec(nano_cpus=15 * 10**8, memory_bytes=GIB)))
    sim.settle()
    sim.put_service(service(task=task_spec(nano_cpus=35 * 10**8)))
    sim.settle()
    busier = sim.where("more")[1]
    other = next(name for name in sim.nodes if name != busier)
    assert reasons(sim) == {
        other: [("resource", "needs 3.5 CPUs, 3 of 4 are free")],
        busier: [("resource", "needs 3.5 CPUs, 1.5 of 4 are free")],
    }
    assert answer(sim).summary == "web.1 is pending: no suitable node (insufficient resources on 2 nodes)"
    assert answer(sim).help == (f"free 0.5 CPUs on {other}, or reserve less",)


def test_more_than_any_node_has_cannot_be_freed() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(task=task_spec(memory_bytes=9 * GIB)))
    sim.settle()
    assert reasons(sim) == {"node-1": [("resource", "needs 9GiB of memory, 8GiB of 8GiB are free")]}
    assert answer(sim).help == ("reserve at most 8GiB of memory, all that node-1 has",)


def test_a_label_is_easier_than_a_node_that_is_down() -> None:
    sim = Simulation(nodes=3)
    sim.label("node-1", zone="eu")
    sim.set_node("node-1", NodeState.DOWN)
    sim.label("node-2", zone="us")
    sim.put_service(service(placement=EU))
    sim.settle()
    assert reasons(sim) == {
        "node-1": [("ready", "it is down")],
        "node-2": [("constraint", "constraint node.labels.zone==eu: it has 'us'")],
        "node-3": [("constraint", "constraint node.labels.zone==eu: it has none")],
    }
    assert answer(sim).help == ("minictl node update --label-add 'zone=eu' node-2",)


def test_a_constraint_that_no_label_satisfies_has_to_go() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(placement=Placement(constraints=("node.hostname=~^db",))))
    sim.settle()
    assert answer(sim).help == ("minictl service update --constraint-rm 'node.hostname=~^db' web",)


def test_what_was_taken_out_of_service_is_put_back_a_pause_before_a_drain() -> None:
    sim = Simulation(nodes=2)
    sim.set_availability("node-1", Availability.DRAIN)
    sim.set_availability("node-2", Availability.PAUSE)
    sim.put_service(service())
    sim.settle()
    assert reasons(sim)["node-1"] == [("ready", "its availability is drain")]
    assert answer(sim).help == ("minictl node update --availability active node-2",)


def test_a_port_is_told_with_its_holder() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service("holder", ports=(host_port(80),)))
    sim.settle()
    sim.put_service(service(ports=(host_port(80),)))
    sim.settle()
    assert reasons(sim) == {"node-1": [("host-port", "port 80/tcp is in use by holder.1")]}
    assert answer(sim).help == ("stop holder.1 on node-1, or publish another port than 80/tcp",)


def test_the_maximum_per_node_is_told_with_the_count() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(replicas=3, placement=Placement(max_replicas=2)))
    sim.settle()
    assert reasons(sim) == {
        "node-1": [("max-replicas", "it has 2 tasks of web, and at most 2 may be on a node")]
    }
    assert answer(sim).help == ("minictl service update --replicas-max-per-node 3 web",)


def test_neighbors_are_told_by_name_and_whose_wish_it_is() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service("shy", placement=Placement(anti_affinity=("web",))))
    sim.settle()
    sim.put_service(service(placement=Placement(affinity=("db",), anti_affinity=("shy",))))
    sim.settle()
    assert reasons(sim)["node-1"] == [
        ("affinity", "it has no task of db, which web wants to be with"),
        ("affinity", "it has a task of shy, which web wants to be apart from"),
        ("affinity", "it has a task of shy, which wants to be apart from web"),
    ]
    assert answer(sim).help == (
        "minictl service update --affinity-rm db web",
        "minictl service update --anti-affinity-rm shy web",
        "minictl service update --anti-affinity-rm web shy",
    )


def test_all_that_stands_in_the_way_is_told_and_has_to_be_removed() -> None:
    sim = Simulation(nodes=1)
    sim.set_availability("node-1", Availability.PAUSE)
    sim.put_service(service(placement=EU, task=task_spec(nano_cpus=5 * 10**9)))
    sim.settle()
    assert [name for name, _ in reasons(sim)["node-1"]] == ["ready", "resource", "constraint"]
    assert answer(sim).help == (
        "minictl node update --availability active node-1",
        "reserve at most 4 CPUs, all that node-1 has",
        "minictl node update --label-add 'zone=eu' node-1",
    )


def test_a_cluster_without_nodes_needs_one() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service())
    sim.settle()
    assert answer(sim) == Answer(
        "web.1 is pending: no suitable node", (), ("add a node: the cluster has none",)
    )


def test_a_node_that_has_never_reported() -> None:
    sim = Simulation(nodes=1)
    del sim.node_statuses["node-1"]
    sim.put_service(service())
    sim.settle()
    assert reasons(sim) == {"node-1": [("ready", "it has never reported")]}


def test_a_failed_allocation_is_a_reason_too() -> None:
    sim = Simulation(network=None)
    sim.put_service(service(ports=(ingress_port(),)))
    sim.step()
    assert answer(sim).summary == (
        "web.1 waits for an address: the cluster has no ingress network to publish ports on"
    )


def test_a_task_that_was_not_looked_at_yet() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service())
    sim.settle()
    sim.add_node("late")
    assert answer(sim) == Answer("web.1 can go to late; the leader has not placed it yet")
    (task,) = sim.of()
    sim.tasks[task.id] = replace(task, state=TaskState.NEW, error="")
    assert answer(sim).summary == "web.1 is new: the leader has not looked at it yet"


def test_tasks_that_have_a_node() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service())
    sim.settle()
    assert answer(sim).summary == "web.1 is running on node-1: scheduler assigned task to node"
    (task,) = sim.of()
    sim.report(task.id, TaskState.FAILED)
    sim.step()
    assert answer(sim).summary == "web.1 is to start on node-1 when its restart delay is over, in 5s"
    assert why(sim.snapshot(), sim.of()[0], sim.now_ns).summary.startswith("web.1 has ended: ")
    sim.statuses[task.id] = replace(sim.statuses[task.id], error="task: non-zero exit (3)")
    late = why(sim.snapshot(), sim.of()[-1], sim.now_ns + SECOND // 2)
    assert late.summary == (
        "web.1 is to start on node-1 when its restart delay is over, in 5s; the last try ended: "
        "task: non-zero exit (3)"
    )
    sim.pass_time(5 * SECOND)
    sim.settle()
    sim.update(task=task_spec(force_update=1))
    sim.step()
    assert answer(sim).summary == "web.1 is to start on node-1 when the task before it has stopped"
    stopping = why(sim.snapshot(), sim.of()[-2], sim.now_ns)
    assert stopping.summary == "web.1 is to stop and has not stopped yet; it is running"
    sim.settle()
    sim.set_node("node-1", NodeState.DOWN)
    assert answer(sim) == Answer("web.1 is on node-1, which is down", help=("bring node-1 back",))


@given(st.data())
def test_obstacles_are_what_the_filters_refuse(data: st.DataObject) -> None:
    """The close look at a node and the look at all columns agree, down to the first filter that refuses."""
    sim = Simulation(nodes=3)
    for node_id in sim.nodes:
        sim.set_node(node_id, data.draw(st.sampled_from(NodeState)))
        sim.set_availability(node_id, data.draw(st.sampled_from(Availability)))
        sim.label(node_id, zone=data.draw(st.sampled_from(("eu", "us"))))
    specs = st.builds(
        task_spec,
        nano_cpus=st.sampled_from((0, 10**9, 3 * 10**9)),
        memory_bytes=st.sampled_from((0, 5 * GIB)),
    )
    ports = st.sampled_from(((), (host_port(80),)))
    sim.put_service(service("first", replicas=2, task=data.draw(specs), ports=data.draw(ports)))
    sim.settle()
    placement = Placement(
        EU.constraints if data.draw(st.booleans()) else (), max_replicas=data.draw(st.integers(0, 1))
    )
    sim.put_service(service(replicas=4, task=data.draw(specs), ports=data.draw(ports), placement=placement))
    sim.settle()
    overlay = Overlay(sim.snapshot(), sim.now_ns, sim.new_id)
    nodes = columns(overlay)
    demand = demand_of(overlay, nodes, sim.of()[-1])
    looked = {
        node_id: found[0].filter
        for row, node_id in enumerate(nodes.ids)
        if (found := obstacles(overlay, nodes, demand, row))
    }
    assert looked == {each.node_id: each.filter for each in refusals(nodes, demand)}
