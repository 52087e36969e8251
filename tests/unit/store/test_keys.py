from __future__ import annotations

import pytest
from minicommon.errors import InvalidArgumentError
from minimanager.domain.objects import NodeStatus, PortProtocol, Service, TaskStatus
from minimanager.store.keys import (
    AddressClaim,
    BarrierKey,
    Keys,
    Kind,
    LeaderKey,
    NameClaim,
    ObjectKey,
    ParsedKey,
    PortClaim,
    TurnKey,
)

KEYS = Keys("c1")


@pytest.mark.parametrize(
    ("key", "text", "parsed"),
    [
        (KEYS.of(Service("s")), "/mini/c1/service/s", ObjectKey(Kind.SERVICE, "s")),
        (KEYS.of(TaskStatus("t")), "/mini/c1/status/t", ObjectKey(Kind.STATUS, "t")),
        (KEYS.of(NodeStatus("n")), "/mini/c1/node-status/n", ObjectKey(Kind.NODE_STATUS, "n")),
        (KEYS.name(Kind.SERVICE, "web"), "/mini/c1/name/service/web", NameClaim(Kind.SERVICE, "web")),
        (KEYS.port(PortProtocol.UDP, 53), "/mini/c1/port/udp/53", PortClaim(PortProtocol.UDP, 53)),
        (KEYS.address("n", "10.0.0.2"), "/mini/c1/address/n/10.0.0.2", AddressClaim("n", "10.0.0.2")),
        (KEYS.leader, "/mini/c1/leader", LeaderKey()),
        (KEYS.barrier, "/mini/c1/barrier", BarrierKey()),
        (KEYS.turn(Kind.NETWORK), "/mini/c1/turn/network", TurnKey(Kind.NETWORK)),
    ],
)
def test_keys_read_back_as_what_they_stand_for(key: str, text: str, parsed: ParsedKey) -> None:
    assert key == text
    assert KEYS.parse(key) == parsed


@pytest.mark.parametrize(
    "key", ["/mini/c2/service/s", "/mini/c1/other/s", "/mini/c1/service", "/mini/c1/service/", ""]
)
def test_other_keys_are_nothing_of_ours(key: str) -> None:
    assert KEYS.parse(key) is None


@pytest.mark.parametrize("text", ["", "a/b", "a\n", "a\0"])
def test_a_part_that_would_make_another_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="service name: must not"):
        KEYS.name(Kind.SERVICE, text)
    with pytest.raises(InvalidArgumentError, match="cluster id"):
        Keys(text)


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_must_be_one(port: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"1 to 65535, got {port}"):
        KEYS.port(PortProtocol.TCP, port)


def test_an_address_must_be_one() -> None:
    with pytest.raises(InvalidArgumentError, match=r"got '10\.0\.0\.0/24'"):
        KEYS.address("n", "10.0.0.0/24")
