"""What `swarm init` refuses before it changes anything."""

from __future__ import annotations

import socket

import pytest
from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError, MiniError
from miniproto.v1 import node_pb2 as pb
from miniworker.node.addresses import HostAddresses, InterfaceAddress
from miniworker.node.init import check_ports_free, plan_init

HOST = HostAddresses((InterfaceAddress("eth0", "10.77.0.11"),), "eth0")


def plan(request: pb.InitRequest, listen: str = "0.0.0.0:2377") -> object:
    return plan_init(request, hostname="core-01", default_listen=listen, host=HOST)


def test_defaults_are_swarms() -> None:
    made = plan_init(pb.InitRequest(), hostname="core-01", default_listen="0.0.0.0:2377", host=HOST)
    assert (made.advertise_host, made.join_address, made.control_address) == (
        "10.77.0.11",
        "10.77.0.11:2377",
        "10.77.0.11:2378",
    )
    choices = made.choices
    assert (choices.pools, choices.subnet_size) == (("10.0.0.0/8",), 24)
    assert choices.task_history_limit == 5
    assert choices.heartbeat_period_ns == 2 * SECOND
    assert choices.certificate_lifetime_ns == 2160 * 3600 * SECOND
    assert len(made.node_id) == len(made.cluster_id) == 25


def test_a_history_of_zero_is_not_the_default() -> None:
    made = plan_init(
        pb.InitRequest(task_history_limit=0), hostname="h", default_listen="0.0.0.0:2377", host=HOST
    )
    assert made.choices.task_history_limit == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.InitRequest(force_new_cluster=True), "--force-new-cluster is reserved"),
        (pb.InitRequest(advertise_address="203.0.113.1"), "is not an address of this machine"),
        (pb.InitRequest(advertise_address="10.77.0.11:99"), "its port 99 must be the listen address's, 2377"),
        (pb.InitRequest(listen_address="0.0.0.0:70000"), "listen address: expected ADDRESS"),
        (pb.InitRequest(certificate_lifetime_ns=SECOND), "minimum certificate expiry time is: 1h0m0s"),
        (pb.InitRequest(heartbeat_period_ns=-1), "cannot be a negative duration"),
        (pb.InitRequest(default_address_pools=["ten"]), "expected an IPv4 CIDR, got 'ten'"),
        (pb.InitRequest(default_address_pools=["10.0.0.1/8"]), "expected an IPv4 CIDR, got '10.0.0.1/8'"),
        (pb.InitRequest(default_address_pools=["fd00::/64"]), "expected an IPv4 CIDR, got 'fd00::/64'"),
        (
            pb.InitRequest(default_address_pools=["10.0.0.0/8", "10.5.0.0/16"]),
            "default address pools 10.0.0.0/8 and 10.5.0.0/16 overlap",
        ),
        (
            pb.InitRequest(default_address_pools=["10.0.0.0/16"], subnet_size=8),
            "expected 16-29 for the pool 10.0.0.0/16, got 8",
        ),
        (pb.InitRequest(etcd_ca_pem=b"x"), "without --etcd-endpoints"),
        (pb.InitRequest(etcd_endpoints=["10.0.0.1:2379"]), "expected http\\(s\\)://HOST:PORT"),
        (pb.InitRequest(etcd_endpoints=["https://10.0.0.1:2379"]), "needs its CA certificate"),
        (
            pb.InitRequest(etcd_endpoints=["http://10.0.0.1:2379"], etcd_key_pem=b"k"),
            "a client certificate needs its key",
        ),
    ],
)
def test_refused(request_: pb.InitRequest, message: str) -> None:
    with pytest.raises(MiniError, match=message):
        plan(request_)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        made = plan_init(
            pb.InitRequest(advertise_address="127.0.0.1"),
            hostname="h",
            default_listen=f"127.0.0.1:{port}",
            host=HOST,
        )
        with pytest.raises(
            FailedPreconditionError, match=f"cannot listen on 127.0.0.1:{port}: Address already"
        ):
            check_ports_free(made)
