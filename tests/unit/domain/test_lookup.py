"""References and filters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import InvalidArgumentError, NotFoundError
from minimanager.domain import filters
from minimanager.domain.names import container_name
from minimanager.domain.objects import SECOND, NodeRole, NodeSpec, TaskState
from minimanager.domain.resolve import resolve
from minimanager.rpc.requests import find_task
from support.simulation import INGRESS, Simulation, service

OBJECTS = {"abc1": "web", "abd2": "db", "web": "strange", "xyz": "twin", "xzz": "twin"}


def find(ref: str) -> str:
    return resolve("service", ref, OBJECTS, name=str)


def test_an_id_comes_before_a_name_and_a_name_before_the_beginning_of_an_id() -> None:
    assert find("web") == "strange"
    assert find("db") == "db"
    assert find("abd") == "db"


def test_what_is_not_there_or_not_clear() -> None:
    with pytest.raises(NotFoundError, match=r"^service foo not found$"):
        find("foo")
    for ref in ("ab", "twin"):
        with pytest.raises(InvalidArgumentError, match=rf"^service {ref} is ambiguous \(2 matches found\)$"):
            find(ref)
    with pytest.raises(InvalidArgumentError, match="service: a name or id must be given"):
        find("")


def test_the_name_of_several_tasks_means_the_newest_that_is_to_run_else_the_newest() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(replicas=1))
    sim.settle()
    for _ in range(2):
        sim.pass_time(600 * SECOND)
        sim.report(sim.live()[0].id, TaskState.FAILED)
        sim.settle()
        sim.pass_time(600 * SECOND)
        sim.settle()
    (live,) = sim.live()
    assert find_task(sim.snapshot(), "web.1") == live
    assert len(sim.of()) == 3
    for task in sim.of():
        sim.tasks[task.id] = replace(task, desired_state=TaskState.SHUTDOWN)
        assert find_task(sim.snapshot(), task.id).id == task.id
    assert find_task(sim.snapshot(), "web.1").id == live.id
    with pytest.raises(NotFoundError, match=r"^task web\.2 not found$"):
        find_task(sim.snapshot(), "web.2")


@pytest.fixture
def sim() -> Simulation:
    sim = Simulation(nodes=2)
    sim.nodes["node-1"] = replace(
        sim.nodes["node-1"], spec=NodeSpec(role=NodeRole.MANAGER, labels={"zone": "a"})
    )
    status = sim.node_statuses["node-2"]
    described = replace(status.description, hostname="core-02", engine_labels={"disk": "ssd"})
    sim.node_statuses["node-2"] = replace(status, description=described)
    sim.put_service(service("web", replicas=2, labels={"env": "prod", "team": "x"}))
    sim.put_service(service("web-2", replicas=1, labels={"env": "test"}))
    sim.put_service(service("old", removing=True))
    sim.settle()
    return sim


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["node-1", "node-2"]),
        ({"id": []}, ["node-1", "node-2"]),
        ({"id": ["node-2"]}, ["node-2"]),
        ({"name": ["core"]}, ["node-2"]),
        ({"name": ["core", "node-1"]}, ["node-1", "node-2"]),
        ({"role": ["manager"]}, ["node-1"]),
        ({"role": ["Worker"], "name": ["node-1"]}, []),
        ({"membership": ["accepted"]}, ["node-1", "node-2"]),
        ({"membership": ["pending"]}, []),
        ({"label": ["disk=ssd"]}, ["node-2"]),
        ({"node.label": ["zone"]}, ["node-1"]),
    ],
)
def test_nodes(sim: Simulation, chosen: dict[str, list[str]], found: list[str]) -> None:
    assert [node.id for node in filters.filter_nodes(sim.snapshot(), chosen)] == found


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["web", "web-2"]),
        ({"name": ["web"]}, ["web", "web-2"]),
        ({"name": ["web-"]}, ["web-2"]),
        ({"label": ["env"]}, ["web", "web-2"]),
        ({"label": ["env=prod"]}, ["web"]),
        ({"label": ["env", "team=y"]}, []),
        ({"mode": ["replicated"]}, ["web", "web-2"]),
        ({"mode": ["global"]}, []),
        ({"id": ["web-2"]}, ["web-2"]),
    ],
)
def test_services(sim: Simulation, chosen: dict[str, list[str]], found: list[str]) -> None:
    assert [each.id for each in filters.filter_services(sim.snapshot(), chosen)] == found


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, 3),
        ({"service": ["web"]}, 3),
        ({"service": ["web-2"]}, 1),
        ({"name": ["web.1"]}, 1),
        ({"id": ["task-"]}, 3),
        ({"label": ["a=b"]}, 0),
        ({"desired-state": ["running"]}, 3),
        ({"desired-state": ["shutdown"]}, 0),
        ({"node": ["nobody"]}, 0),
    ],
)
def test_tasks(sim: Simulation, chosen: dict[str, list[str]], count: int) -> None:
    assert len(filters.filter_tasks(sim.snapshot(), chosen)) == count


def test_tasks_by_node_name_or_id(sim: Simulation) -> None:
    on_second = [task.id for task in sim.of("web") + sim.of("web-2") if task.node_id == "node-2"]
    for ref in ("core-02", "node-2"):
        assert [task.id for task in filters.filter_tasks(sim.snapshot(), {"node": [ref]})] == on_second
    task = sim.of("web-2")[0]
    sim.tasks[task.id] = replace(task, node_id="", desired_state=TaskState.READY)
    assert filters.filter_tasks(sim.snapshot(), {"node": [""], "desired-state": ["ready"]}) == []


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, True),
        ({"name": ["gres"]}, True),
        ({"name": ["^in.*s$"]}, True),
        ({"name": ["^gres"]}, False),
        ({"id": ["ingress-id"]}, True),
        ({"driver": ["overlay"]}, True),
        ({"driver": ["bridge"]}, False),
        ({"scope": ["swarm"]}, True),
        ({"scope": ["local"]}, False),
        ({"type": ["custom"]}, True),
        ({"label": ["x"]}, False),
    ],
)
def test_networks(sim: Simulation, chosen: dict[str, list[str]], found: bool) -> None:
    assert filters.filter_networks(sim.snapshot(), chosen) == ([INGRESS] if found else [])


def test_unknown_keys_and_values_are_refused(sim: Simulation) -> None:
    snapshot = sim.snapshot()
    with pytest.raises(
        InvalidArgumentError, match=r"^invalid filter 'color': must be one of id, label, mode, name$"
    ):
        filters.filter_services(snapshot, {"color": ["red"]})
    with pytest.raises(
        InvalidArgumentError, match=r"^invalid filter 'role=boss': must be one of manager, worker$"
    ):
        filters.filter_nodes(snapshot, {"name": ["nobody"], "role": ["boss"]})
    with pytest.raises(InvalidArgumentError, match="not a regular expression"):
        filters.filter_networks(snapshot, {"name": ["("]})


def test_nodes_without_status_have_the_name_of_their_specification(sim: Simulation) -> None:
    sim.nodes["node-1"] = replace(sim.nodes["node-1"], spec=NodeSpec(name="spare"))
    del sim.node_statuses["node-1"]
    found = filters.filter_nodes(sim.snapshot(), {"name": ["spare"], "label": []})
    assert [node.id for node in found] == ["node-1"]
    assert filters.filter_nodes(sim.snapshot(), {"label": ["disk"]})[0].id == "node-2"


def test_containers_are_named_after_service_slot_and_task(sim: Simulation) -> None:
    task = sim.of("web")[0]
    assert container_name(task) == f"web.1.{task.id}"
