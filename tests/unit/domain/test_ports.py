"""Published ports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.errors import AlreadyExistsError, ResourceExhaustedError
from minimanager.domain.objects import PortConfig, PortProtocol, PublishMode
from minimanager.domain.ports import FIRST_DYNAMIC_PORT, LAST_DYNAMIC_PORT, Owner, owners, publish
from support.simulation import host_port, ingress_port, service

TAKEN = owners([service("web", ports=(ingress_port(80),)), service("dns", ports=(host_port(53),))])


def test_explicit_ports_stay() -> None:
    ports = (ingress_port(81), host_port(82), host_port(0))
    assert publish(ports, TAKEN) == ports


def test_a_port_in_use_names_the_service_that_has_it() -> None:
    with pytest.raises(AlreadyExistsError) as caught:
        publish((ingress_port(80),), TAKEN)
    assert str(caught.value) == "port '80' is already in use by service 'web' (web) as an ingress port"
    with pytest.raises(
        AlreadyExistsError, match=r"'53' is already in use by service 'dns'.*host-published port"
    ):
        publish((ingress_port(53),), TAKEN)


def test_host_ports_conflict_with_ingress_ports_only() -> None:
    assert publish((host_port(53),), TAKEN) == (host_port(53),)
    with pytest.raises(AlreadyExistsError, match="'80' is already in use"):
        publish((host_port(80),), TAKEN)


def test_tcp_and_udp_are_two() -> None:
    udp = replace(ingress_port(80), protocol=PortProtocol.UDP)
    assert publish((udp,), TAKEN) == (udp,)


def test_a_service_does_not_conflict_with_itself() -> None:
    assert publish((ingress_port(80),), TAKEN, service_id="web") == (ingress_port(80),)


def test_a_service_that_is_removed_has_no_ports() -> None:
    assert owners([service("web", ports=(ingress_port(80),), removing=True)]) == {}


def test_an_ingress_owner_hides_a_host_owner() -> None:
    both = [service("a", ports=(host_port(80),)), service("b", ports=(ingress_port(80),))]
    for services in (both, both[::-1]):
        assert owners(services)[PortProtocol.TCP, 80] == Owner("b", "b", PublishMode.INGRESS)


def test_free_numbers_are_chosen_from_the_dynamic_range() -> None:
    taken = owners([service("web", ports=(ingress_port(FIRST_DYNAMIC_PORT),))])
    ports = (ingress_port(0, 1), ingress_port(FIRST_DYNAMIC_PORT + 1, 2), ingress_port(0, 3))
    assert [port.published_port for port in publish(ports, taken)] == [30_002, 30_001, 30_003]


def test_a_number_once_chosen_is_kept() -> None:
    before = (ingress_port(30_007, 1), ingress_port(30_005, 2))
    taken = owners([replace(service("web"), ports=before)])
    asked = (ingress_port(0, 2), ingress_port(0, 1), ingress_port(0, 9))
    chosen = publish(asked, taken, service_id="web", before=before)
    assert [port.published_port for port in chosen] == [30_005, 30_007, 30_000]


def test_a_kept_number_that_is_now_asked_for_by_name_is_chosen_anew() -> None:
    before = (ingress_port(30_007, 1),)
    chosen = publish((ingress_port(0, 1), ingress_port(30_007, 2)), {}, service_id="web", before=before)
    assert [port.published_port for port in chosen] == [30_000, 30_007]


def test_when_all_are_taken_it_says_so() -> None:
    ports = tuple(
        PortConfig(PortProtocol.UDP, 1, number) for number in range(FIRST_DYNAMIC_PORT, LAST_DYNAMIC_PORT + 1)
    )
    with pytest.raises(ResourceExhaustedError) as caught:
        publish((PortConfig(PortProtocol.UDP, 53),), owners([service("all", ports=ports)]))
    assert str(caught.value) == "no free udp port in 30000-32767 to publish port 53 on"
