"""Choosing the address to advertise, in Docker's words."""

from __future__ import annotations

import pytest
from minicommon.errors import InvalidArgumentError
from miniworker.node.addresses import (
    HostAddresses,
    InterfaceAddress,
    choose_advertised,
    host_addresses,
    source_address,
    split_port,
)

ONE = HostAddresses((InterfaceAddress("eth0", "10.77.0.11"),), "eth0")
TWO = HostAddresses((InterfaceAddress("eth0", "10.77.0.11"), InterfaceAddress("eth1", "10.88.0.11")))
DOUBLE = HostAddresses(
    (InterfaceAddress("eth0", "10.77.0.11"), InterfaceAddress("eth0", "10.77.0.12")), "eth0"
)


@pytest.mark.parametrize(
    ("given", "host", "chosen"),
    [
        ("", ONE, "10.77.0.11"),
        ("10.77.0.11", TWO, "10.77.0.11"),
        ("203.0.113.9", ONE, "203.0.113.9"),
        ("eth1", TWO, "10.88.0.11"),
        ("", HostAddresses((*ONE.addresses, InterfaceAddress("docker0", "172.17.0.1"))), "10.77.0.11"),
        ("", HostAddresses(TWO.addresses, "eth1"), "10.88.0.11"),
    ],
)
def test_chosen(given: str, host: HostAddresses, chosen: str) -> None:
    assert choose_advertised(given, host) == chosen


@pytest.mark.parametrize(
    ("given", "host", "message"),
    [
        (
            "",
            TWO,
            "could not choose an IP address to advertise since this system has multiple addresses on different "
            "interfaces (10.77.0.11 on eth0 and 10.88.0.11 on eth1) - specify one with --advertise-addr",
        ),
        (
            "",
            DOUBLE,
            "could not choose an IP address to advertise since this system has multiple addresses on interface "
            "eth0 (10.77.0.11 and 10.77.0.12) - specify one with --advertise-addr",
        ),
        ("", HostAddresses(()), "could not find the system's IP address - specify one with --advertise-addr"),
        ("eth0", DOUBLE, "interface eth0 has more than one IPv4 address (10.77.0.11 and 10.77.0.12)"),
        (
            "eth9",
            ONE,
            "advertise address 'eth9' is neither an IPv4 address nor a network interface with one; "
            "this machine has 10.77.0.11 on eth0",
        ),
        (
            "0.0.0.0",
            ONE,
            "advertise address must be a non-zero IP address or network interface (with optional port number)",
        ),
    ],
)
def test_refused(given: str, host: HostAddresses, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        choose_advertised(given, host)
    assert caught.value.message == message


def test_ports() -> None:
    assert split_port("10.0.0.1", field="f") == ("10.0.0.1", None)
    assert split_port("eth0:2400", field="f") == ("eth0", 2400)
    for bad in ("10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", ":2377"):
        with pytest.raises(InvalidArgumentError, match="f: expected ADDRESS"):
            split_port(bad, field="f")


async def test_this_machine_tells_its_addresses() -> None:
    host = await host_addresses()
    assert all(not item.address.startswith("127.") for item in host.addresses)
    assert host.has("127.0.0.1")
    assert source_address("127.0.0.1") == "127.0.0.1"
