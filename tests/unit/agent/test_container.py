"""From an assigned task to its container's configuration."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.container import container_config, host_ports
from miniworker.network.api import HostPort
from miniworker.runtime.api import Device, Limits, LogLimits, Mount, MountKind, Ulimit


def test_what_a_container_is_given_reaches_the_runtime() -> None:
    spec = pb.TaskSpec(
        container=pb.ContainerSpec(
            image="whoami:1",
            init=True,
            tty=True,
            sysctls={"net.core.somaxconn": "9"},
            ulimits=[pb.Ulimit(name="nofile", soft=1, hard=2)],
            hosts=[pb.HostEntry(name="db", address="10.0.0.5")],
            dns=pb.DnsConfig(nameservers=["10.0.0.1"], search=["lan"], options=["ndots:2"]),
            shm_size_bytes=7,
            privileged=True,
            devices=[pb.Device(source="/dev/a", target="/dev/b", permissions="r")],
            host_pid=True,
            seccomp_unconfined=True,
            no_new_privileges=True,
            oom_score_adj=8,
            mounts=[
                pb.Mount(
                    type=pb.MOUNT_TYPE_BIND,
                    source="/s",
                    target="/b",
                    read_only=True,
                    propagation="shared",
                    non_recursive=True,
                ),
                pb.Mount(source="v", target="/v", no_copy=True),
                pb.Mount(type=pb.MOUNT_TYPE_TMPFS, target="/t", size_bytes=5, mode=0o700),
            ],
        ),
        resources=pb.Resources(limits=pb.ResourceLimits(memory_bytes=10, swap_bytes=-1)),
    )
    config = container_config(dispatch.AssignedTask(id="t", name="web.1", spec=spec), node_id="n")
    assert (config.init, config.tty, config.shm_bytes, config.oom_score_adj) == (True, True, 7, 8)
    assert config.devices == (Device("/dev/a", "/dev/b", "r"),)
    assert (config.privileged, config.host_pid) == (True, True)
    assert (config.seccomp_unconfined, config.no_new_privileges) == (True, True)
    assert config.sysctls == {"net.core.somaxconn": "9"}
    assert config.ulimits == (Ulimit("nofile", 1, 2),)
    assert config.hosts == (("10.0.0.5", "db"),)
    assert (config.dns, config.dns_search, config.dns_options) == (("10.0.0.1",), ("lan",), ("ndots:2",))
    assert config.limits == Limits(memory_bytes=10, swap_bytes=-1)
    assert config.mounts == (
        Mount(MountKind.BIND, "/b", "/s", read_only=True, propagation="shared", recursive=False),
        Mount(MountKind.VOLUME, "/v", "v", copy=False),
        Mount(MountKind.TMPFS, "/t", size_bytes=5, mode=0o700),
    )


def test_resources_are_told_in_the_environment_and_limits_in_their_fields() -> None:
    spec = pb.TaskSpec(
        container=pb.ContainerSpec(image="whoami:1", env=["A=1"]),
        resources=pb.Resources(limits=pb.ResourceLimits(swappiness=pb.Swappiness(percent=0))),
        log_driver=pb.LogDriver(name="json-file", options={"max-size": "1k"}),
    )
    got = [pb.GenericResource(kind="nvidia-gpu", ids=["U1", "U2"]), pb.GenericResource(kind="SSD", count=3)]
    task = dispatch.AssignedTask(id="t", name="web.1", spec=spec, resources=got)
    config = container_config(task, node_id="n")
    assert config.env == ("A=1", "DOCKER_RESOURCE_NVIDIA-GPU=U1,U2", "DOCKER_RESOURCE_SSD=3")
    assert config.limits == Limits(swappiness=0)
    assert config.logs == LogLimits(max_bytes=1024)


def test_what_is_not_given_has_dockers_defaults() -> None:
    spec = pb.TaskSpec(container=pb.ContainerSpec(image="whoami:1"))
    config = container_config(dispatch.AssignedTask(id="t", name="web.1", spec=spec), node_id="n")
    assert config.limits == Limits(swappiness=-1)
    assert config.logs == LogLimits(keep=True, max_bytes=0)
    assert config.stop_grace_period_ns == 10_000_000_000
    spec.log_driver.name = "none"
    config = container_config(dispatch.AssignedTask(id="t", name="web.1", spec=spec), node_id="n")
    assert not config.logs.keep


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("", {"max-size": "1k", "max-file": "3"}, LogLimits(max_bytes=1024, files=3)),
        (
            "json-file",
            {"max-size": "1k", "max-file": "3", "compress": "true"},
            LogLimits(max_bytes=1024, files=3, compress=True),
        ),
        ("local", {}, LogLimits(max_bytes=20 << 20, files=5, compress=True, driver="local")),
        ("local", {"max-file": "1"}, LogLimits(max_bytes=20 << 20, driver="local")),
        ("local", {"compress": "false"}, LogLimits(max_bytes=20 << 20, files=5, driver="local")),
        ("journald", {}, LogLimits(driver="journald")),
        ("none", {}, LogLimits(keep=False)),
    ],
)
def test_what_a_log_driver_keeps(name: str, options: dict[str, str], expected: LogLimits) -> None:
    spec = pb.TaskSpec(
        container=pb.ContainerSpec(image="whoami:1"), log_driver=pb.LogDriver(name=name, options=options)
    )
    task = dispatch.AssignedTask(id="t", name="web.1", spec=spec)
    assert container_config(task, node_id="n").logs == expected


def test_the_ports_of_the_node_itself_are_those_in_host_mode() -> None:
    host = pb.PUBLISH_MODE_HOST
    ports = [
        pb.PortConfig(target_port=80, published_port=8080, publish_mode=host),
        pb.PortConfig(target_port=81, published_port=8081, publish_mode=host, host_ip="10.77.0.21"),
        pb.PortConfig(target_port=82, published_port=8082, publish_mode=host, host_ip="0.0.0.0"),
        pb.PortConfig(target_port=83, published_port=8083),
    ]
    assert host_ports(dispatch.AssignedTask(ports=ports)) == (
        HostPort("tcp", 8080, 80),
        HostPort("tcp", 8081, 81, IPv4Address("10.77.0.21")),
        HostPort("tcp", 8082, 82),
    )


def test_a_host_mode_port_has_an_ipv4_address() -> None:
    port = pb.PortConfig(
        target_port=80, published_port=80, publish_mode=pb.PUBLISH_MODE_HOST, host_ip="fd77::1"
    )
    with pytest.raises(
        InvalidArgumentError, match="host_ip: must be an IPv4 address for a port in host mode"
    ):
        host_ports(dispatch.AssignedTask(ports=[port]))
