"""Generic resources, what nodes allow, and platforms: which node is chosen, and why the others are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from minimanager.decide.reconcile import affected
from minimanager.decide.scheduler.stock import Stock
from minimanager.decide.scheduler.why import why
from minimanager.domain.objects import (
    ContainerSpec,
    Device,
    GenericResource,
    Network,
    NetworkSpec,
    NetworkUse,
    NodeState,
    Placement,
    Platform,
    ResourceReservations,
    Resources,
    ServiceMode,
    TaskSpec,
    TaskState,
)
from minimanager.domain.platforms import supports, text
from support.simulation import Simulation, service

GPU = GenericResource("GPU", count=1)
SECRET = Network(
    "secret-id",
    spec=NetworkSpec(name="secret", encrypted=True),
    subnet="10.0.9.0/24",
    gateway="10.0.9.1",
    vni=4105,
)
AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def describe(sim: Simulation, node_id: str, **changes: Any) -> None:
    status = sim.node_statuses[node_id]
    sim.node_statuses[node_id] = replace(status, description=replace(status.description, **changes))


def reserving(*generic: GenericResource, force: int = 0) -> TaskSpec:
    return TaskSpec(
        resources=Resources(reservations=ResourceReservations(generic=generic)), force_update=force
    )


def wanting(**container: Any) -> TaskSpec:
    return TaskSpec(container=ContainerSpec(**container))


def error(sim: Simulation) -> str:
    return next(task.error for task in sim.of() if not task.node_id)


def told(sim: Simulation) -> tuple[list[str], tuple[str, ...]]:
    """(reason of each node, what would help) of the waiting task."""
    waiting = next(task for task in sim.of() if not task.node_id)
    answer = why(sim.snapshot(), waiting, sim.now_ns)
    reasons = [obstacle.reason for each in answer.refusals for obstacle in each.obstacles]
    return reasons, answer.help


# --- generic resources ---


def test_each_task_gets_names_of_its_own_and_they_come_back_with_its_end() -> None:
    sim = Simulation(nodes=1)
    describe(sim, "node-1", generic_resources=(GenericResource("GPU", ("A", "B")),))
    sim.put_service(service(replicas=3, task=reserving(GPU)))
    sim.settle()
    assert {task.resources for task in sim.running()} == {
        (GenericResource("GPU", ("A",)),),
        (GenericResource("GPU", ("B",)),),
    }
    assert error(sim) == "no suitable node (insufficient resources on 1 node)"
    assert told(sim) == (
        ["needs 1 GPU, 0 of 2 are free"],
        ("free 1 GPU on node-1, or reserve less",),
    )
    sim.update(replicas=2)
    sim.settle()
    first = sim.running()[0]
    sim.report(first.id, TaskState.FAILED)
    sim.settle_over_time()
    names = sorted(name for task in sim.running() for each in task.resources for name in each.ids)
    assert names == ["A", "B"]


def test_a_number_is_given_out_by_number() -> None:
    sim = Simulation(nodes=2)
    describe(sim, "node-2", generic_resources=(GenericResource("SSD", count=5),))
    sim.put_service(service(replicas=3, task=reserving(GenericResource("SSD", count=2))))
    sim.settle()
    assert [task.node_id for task in sim.running()] == ["node-2", "node-2"]
    assert all(task.resources == (GenericResource("SSD", count=2),) for task in sim.running())
    assert error(sim) == "no suitable node (insufficient resources on 2 nodes)"
    assert told(sim)[0] == ["needs 2 SSD, it has none", "needs 2 SSD, 1 of 5 are free"]


def test_nobody_has_such_a_thing() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(task=reserving(GPU)))
    sim.settle()
    assert told(sim)[1] == ("start mini-worker on node-1 with --generic-resource GPU=1, if it has them",)


def test_more_than_a_node_has_in_all() -> None:
    sim = Simulation(nodes=1)
    describe(sim, "node-1", generic_resources=(GenericResource("GPU", ("A",)),))
    sim.put_service(service(task=reserving(GenericResource("GPU", count=2))))
    sim.settle()
    assert told(sim)[1] == ("reserve at most 1 GPU, all that node-1 has",)


def test_a_task_that_stops_keeps_what_it_has_until_it_has_stopped() -> None:
    sim = Simulation(nodes=1)
    describe(sim, "node-1", generic_resources=(GenericResource("GPU", ("A",)),))
    sim.put_service(service(task=reserving(GPU)))
    sim.settle()
    sim.update(task=reserving(GPU, force=1))
    sim.step()
    assert [task.node_id for task in sim.of()] == ["node-1", ""]
    sim.settle()
    (running,) = sim.running()
    assert running.resources == (GenericResource("GPU", ("A",)),)
    assert running.spec.force_update == 1


def test_a_global_service_gets_them_on_each_node() -> None:
    sim = Simulation(nodes=2)
    describe(sim, "node-1", generic_resources=(GenericResource("GPU", ("A",)),))
    sim.put_service(service(mode=ServiceMode.GLOBAL, replicas=0, task=reserving(GPU)))
    sim.settle()
    (running,) = sim.running()
    assert (running.node_id, running.resources) == ("node-1", (GenericResource("GPU", ("A",)),))


def test_a_node_that_gets_some_is_looked_at_again() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(task=reserving(GPU)))
    sim.settle()
    old = sim.node_statuses["node-1"]
    describe(sim, "node-1", generic_resources=(GenericResource("GPU", ("A",)),))
    new = sim.node_statuses["node-1"]
    assert affected(sim.snapshot(), "node-status", old, new) == {"web"}
    sim.settle()
    assert len(sim.running()) == 1


def test_the_stock_of_a_node_that_has_changed_meanwhile() -> None:
    """A name that the node has no longer cannot be freed or given, and what it held is not counted."""
    stock = Stock(1)
    stock.add(0, (GenericResource("GPU", ("B", "C")),))
    stock.hold(0, (GenericResource("GPU", ("A",)), GenericResource("GPU", ("B",))))
    assert stock.free("GPU")[0] == 1
    assert stock.take(0, (GPU,)) == (GenericResource("GPU", ("C",)),)
    numbered = Stock(1)
    numbered.add(0, (GenericResource("GPU", count=2),))
    numbered.hold(0, (GenericResource("GPU", ("A",)),))
    assert numbered.free("GPU")[0] == 1


# --- whether a node encrypts ---


def test_only_a_node_that_encrypts_gets_a_task_on_an_encrypted_network() -> None:
    sim = Simulation(nodes=2)
    sim.networks[SECRET.id] = SECRET
    sim.put_service(service(task=TaskSpec(networks=(NetworkUse(SECRET.id),))))
    sim.settle()
    assert error(sim) == "no suitable node (no encryption on 2 nodes)"
    reasons, help = told(sim)
    assert reasons == ["it cannot encrypt, and network secret is encrypted"] * 2
    assert help[0].startswith("install wireguard-go on node-1")
    old = sim.node_statuses["node-2"]
    sim.node_statuses["node-2"] = replace(old, encryption_key="key")
    assert affected(sim.snapshot(), "node-status", old, sim.node_statuses["node-2"]) == {"web"}
    sim.settle()
    assert sim.where() == {1: "node-2"}


# --- what a node allows ---


@pytest.mark.parametrize(
    ("container", "grant"),
    [
        ({"privileged": True}, "privileged"),
        ({"devices": (Device("/dev/fuse", "/dev/fuse", "rwm"),)}, "device"),
        ({"host_pid": True}, "pid-host"),
        ({"seccomp_unconfined": True}, "seccomp-unconfined"),
    ],
)
def test_only_a_node_that_allows_it_gets_the_task(container: dict[str, Any], grant: str) -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(task=wanting(**container)))
    sim.settle()
    assert error(sim) == f"no suitable node ({grant} not allowed on 2 nodes)"
    reasons, help = told(sim)
    assert reasons == [f"it does not allow {grant}"] * 2
    assert help == (f"start mini-worker on node-1 with --allow {grant}",)
    old = sim.node_statuses["node-2"]
    describe(sim, "node-2", allowed=(grant,))
    assert affected(sim.snapshot(), "node-status", old, sim.node_statuses["node-2"]) == {"web"}
    sim.settle()
    assert sim.where() == {1: "node-2"}


def test_what_only_takes_away_may_go_anywhere() -> None:
    sim = Simulation(nodes=1)
    sim.put_service(service(task=wanting(no_new_privileges=True, cap_drop=("ALL",), read_only=True)))
    sim.settle()
    assert len(sim.running()) == 1


# --- platforms ---


def test_an_image_goes_where_it_can_run() -> None:
    sim = Simulation(nodes=2)
    describe(sim, "node-1", os="linux", architecture="x86_64")
    describe(sim, "node-2", os="linux", architecture="aarch64")
    sim.put_service(service(replicas=2, placement=Placement(platforms=(ARM,))))
    sim.settle()
    assert sim.where() == {1: "node-2", 2: "node-2"}
    both = Placement(platforms=(AMD, ARM))
    sim.put_service(service("other", replicas=2, placement=both))
    sim.settle()
    assert len(sim.running("other")) == 2


def test_an_image_for_no_node_waits_with_the_reason() -> None:
    sim = Simulation(nodes=2)
    for name in sim.nodes:
        describe(sim, name, os="linux", architecture="x86_64")
    sim.put_service(service(placement=Placement(platforms=(ARM, Platform("windows", "amd64")))))
    sim.settle()
    assert error(sim) == "no suitable node (unsupported platform on 2 nodes)"
    reasons, help = told(sim)
    assert reasons == ["it is linux/amd64, the image is for linux/arm64, windows/amd64"] * 2
    assert help == ("give web an image that is made for linux/amd64, too",)


def test_a_node_that_never_reported_has_no_platform() -> None:
    sim = Simulation(nodes=1)
    sim.node_statuses.pop("node-1")
    sim.put_service(service(placement=Placement(platforms=(AMD,))))
    sim.settle()
    assert told(sim)[0] == [
        "it has never reported",
        "it is */*, the image is for linux/amd64",
    ]


@pytest.mark.parametrize(
    ("machine", "image", "fits"),
    [
        ("x86_64", "amd64", True),
        ("x86_64", "x86_64", True),
        ("aarch64", "arm64", True),
        ("armv7l", "arm", True),
        ("i686", "386", True),
        ("riscv64", "riscv64", True),
        ("x86_64", "", True),
        ("x86_64", "386", False),
        ("aarch64", "arm", False),
    ],
)
def test_names_of_architectures(machine: str, image: str, fits: bool) -> None:
    sim = Simulation(nodes=1)
    describe(sim, "node-1", os="linux", architecture=machine)
    assert supports(sim.node_statuses["node-1"].description, (Platform("linux", image),)) is fits


def test_a_platform_in_words() -> None:
    assert text(Platform("linux", "x86_64")) == "linux/amd64"
    assert text(Platform()) == "*/*"


def test_the_first_filter_that_refuses_is_the_reason() -> None:
    """Ready, resource, allow, encryption, constraint, platform: SwarmKit's order, with two for its plugins."""
    sim = Simulation(nodes=1)
    sim.networks["secret-id"] = SECRET
    describe(sim, "node-1", os="linux", architecture="x86_64")
    placement = Placement(constraints=("node.labels.a==b",), platforms=(ARM,))
    networks = (NetworkUse(SECRET.id),)
    spec = replace(reserving(GPU), container=ContainerSpec(privileged=True), networks=networks)
    sim.set_node("node-1", NodeState.DOWN)
    sim.put_service(service(task=spec, placement=placement))
    sim.settle()
    waiting = next(task for task in sim.of() if not task.node_id)
    answer = why(sim.snapshot(), waiting, sim.now_ns)
    assert [obstacle.filter for obstacle in answer.refusals[0].obstacles] == [
        *("ready", "resource", "allow", "encryption", "constraint", "platform"),
    ]
