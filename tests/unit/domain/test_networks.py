"""Networks and port options in normal form, and which networks nothing uses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.domain.objects import (
    HOUR,
    SECOND,
    Meta,
    Network,
    NetworkSpec,
    NetworkUse,
    PortConfig,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    TaskState,
)
from minimanager.domain.one_off import LABEL
from minimanager.domain.prune import unused_networks
from minimanager.domain.usage import in_use_by
from minimanager.domain.validate_network import MTU_OPTION, VNI_OPTION, place_network, validate_network
from minimanager.domain.validate_ports import validate_ports
from support.simulation import START_NS, Simulation, service, task_spec


def network(name: str = "backend", *, created_at_ns: int = START_NS, **spec: object) -> Network:
    wanted = replace(NetworkSpec(name=name), **spec)  # type: ignore[arg-type]
    return Network(
        name, meta=Meta(1, created_at_ns), spec=wanted, subnet="10.0.1.0/24", gateway="10.0.1.1", vni=4097
    )


@pytest.mark.parametrize(
    ("given", "mtu", "encrypted"),
    [
        ({}, 1450, False),
        ({"driver": ""}, 1450, False),
        ({"mtu": 0}, 1450, False),
        ({"mtu": 9000}, 9000, False),
        ({"mtu": 0, "options": {MTU_OPTION: "1280"}}, 1280, False),
        ({"mtu": 0, "encrypted": True}, 1370, True),
        ({"mtu": 0, "options": {"encrypted": "true"}}, 1370, True),
        ({"mtu": 0, "encrypted": True, "options": {"encrypted": "false"}}, 1450, False),
    ],
)
def test_options_are_in_the_fields(given: dict[str, object], mtu: int, encrypted: bool) -> None:
    spec = validate_network(replace(NetworkSpec(name="n"), **given))  # type: ignore[arg-type]
    assert (spec.driver, spec.mtu, spec.encrypted) == ("overlay", mtu, encrypted)


def test_a_network_steps_over_the_subnets_and_nodes_that_there_are() -> None:
    sim = Simulation(nodes=1)
    sim.networks["other"] = network("other", created_at_ns=0)
    sim.node_statuses["node-1"] = replace(sim.node_statuses["node-1"], address="10.0.2.9")
    subnet, router, vni = place_network(sim.snapshot(), NetworkSpec(name="new"))
    assert (str(subnet), str(router), vni) == ("10.0.3.0/24", "10.0.3.1", 4096)
    chosen = NetworkSpec(name="new", subnet="10.7.0.0/16", gateway="10.7.7.7", options={VNI_OPTION: "4098"})
    subnet, router, vni = place_network(sim.snapshot(), chosen)
    assert (str(subnet), str(router), vni) == ("10.7.0.0/16", "10.7.7.7", 4098)


def test_a_name_is_free_when_its_network_is_going_but_not_its_subnet() -> None:
    sim = Simulation()
    sim.networks["backend"] = replace(network(), removing=True)
    subnet, _, _ = place_network(sim.snapshot(), NetworkSpec(name="backend"))
    assert str(subnet) == "10.0.2.0/24"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", ""), ("0.0.0.0", ""), ("10.0.0.7", "10.0.0.7"), ("::1", "::1"), ("FD00::0:1", "fd00::1")],
)
def test_addresses_of_ports_are_written_as_usual(given: str, kept: str) -> None:
    assert validate_ports((PortConfig(target_port=80, host_ip=given),))[0].host_ip == kept


@pytest.fixture
def sim() -> Simulation:
    """Three networks: one with a service, one that is old, one that is new and labeled."""
    sim = Simulation(nodes=1)
    for each in (
        network("used"),
        network("old", created_at_ns=START_NS - 2 * HOUR),
        network("new", labels={"keep": "yes", "tier": "back"}),
    ):
        sim.networks[each.id] = each
    sim.put_service(service("web", task=replace(task_spec(), networks=(NetworkUse("used"),))))
    sim.settle()
    return sim


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["new", "old"]),
        ({"until": ["1h"]}, ["old"]),
        ({"until": [str(START_NS // SECOND - 3600)]}, ["old"]),
        ({"until": ["2023-11-14T21:00:00Z"]}, ["old"]),
        ({"until": ["2023-11-14T21:00:00"]}, ["old"]),
        ({"until": ["2023-11-14T21:00:00-10:00"]}, ["new", "old"]),
        ({"label": ["keep=yes", "tier"]}, ["new"]),
        ({"label!": ["keep"]}, ["old"]),
    ],
)
def test_unused_networks(sim: Simulation, filters: dict[str, list[str]], names: list[str]) -> None:
    found = unused_networks(sim.snapshot(), filters, START_NS)
    assert [each.spec.name for each in found] == names


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"name": ["x"]}, "invalid filter 'name': must be one of label, label!, until"),
        ({"until": ["1h", "2h"]}, "more than one until filter specified"),
        ({"until": ["yesterday"]}, "until: must be a time .* not 'yesterday'"),
    ],
)
def test_filters_that_mean_nothing(sim: Simulation, filters: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        unused_networks(sim.snapshot(), filters, START_NS)


def test_who_uses_a_network(sim: Simulation) -> None:
    used = sim.networks["used"]
    assert in_use_by(sim.snapshot(), used) == "service web"
    sim.put_service(service("api", task=replace(task_spec(), networks=(NetworkUse("used"),))))
    assert in_use_by(sim.snapshot(), used) == "services api, web"
    (task,) = sim.running("web")
    for name in ("api", "web"):
        sim.put_service(replace(sim.services[name], spec=replace(sim.services[name].spec, task=task_spec())))
    assert in_use_by(sim.snapshot(), used) == f"task web.1.{task.id}"
    sim.services["web"] = replace(sim.services["web"], removing=True)
    assert in_use_by(sim.snapshot(), used) == ""
    sim.services["web"] = replace(sim.services["web"], removing=False)
    sim.tasks[task.id] = replace(sim.tasks[task.id], desired_state=TaskState.SHUTDOWN)
    assert in_use_by(sim.snapshot(), used) == ""


def test_a_container_that_has_ended_uses_no_network() -> None:
    sim = Simulation(nodes=1)
    sim.networks["backend"] = network()
    on = replace(task_spec(restart=RestartPolicy(RestartCondition.NONE)), networks=(NetworkUse("backend"),))
    job = service("brief", task=on, mode=ServiceMode.REPLICATED_JOB, labels={LABEL: "detached,keep,m,r"})
    sim.put_service(job)
    assert in_use_by(sim.snapshot(), sim.networks["backend"]) == "container brief"
    sim.settle()
    assert in_use_by(sim.snapshot(), sim.networks["backend"]) == "container brief"
    sim.report(sim.running("brief")[0].id, TaskState.COMPLETE)
    sim.settle()
    assert in_use_by(sim.snapshot(), sim.networks["backend"]) == ""


def test_services_and_containers_on_a_network_are_told_apart(sim: Simulation) -> None:
    on = replace(task_spec(), networks=(NetworkUse("used"),))
    for name in ("one", "two"):
        sim.put_service(service(name, task=on, labels={LABEL: "detached,keep,m,r"}))
    assert in_use_by(sim.snapshot(), sim.networks["used"]) == "service web and containers one, two"
