"""Names in a container: a real mini-ingress on a node in a namespace, asked through the container's resolv.conf."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from miniproto.v1 import ingress_pb2 as pb
from miniproto.v1 import ingress_pb2_grpc
from miniworker.runtime.api import ContainerConfig
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images
from support.cluster import BIN
from support.dns import client, network, service, table, task_id
from support.runtimes import chunks

pytestmark = pytest.mark.root

TASK, ADDRESS, GATEWAY = "taskaaaaaaaaaaaaaaaaaaaaa", "10.0.1.9", "10.0.1.1"
BACKEND = network("netb", name="backend")
WEB = service("netb", "web", virtual="10.0.1.2", tasks=("10.0.1.5", "10.0.1.6"), aliases=("www",))
MANY = service("netb", "many", tasks=[f"10.0.1.{last}" for last in range(20, 240)])
CLIENT = client(ADDRESS, "netb", task=TASK)
TABLE = table((BACKEND,), (WEB, MANY), (CLIENT,))

_SERVER = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(512)
    answer = bytes.fromhex("c00c00010001000000050004c0000207")
    server.sendto(data[:2] + bytes.fromhex("81800001000100000000") + data[12:] + answer, peer)
"""
"""A name server that knows every name, and has 192.0.2.7 for it; it listens where only its own namespace can ask."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@dataclass
class Node:
    """A node's network, without anything else of a node, and a container's namespace on its bridge."""

    prefix: str
    run_dir: Path
    ingress: subprocess.Popen[bytes] | None = None

    @property
    def node(self) -> str:
        return f"{self.prefix}-node"

    @property
    def container(self) -> str:
        return f"{self.prefix}-task"

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.container

    def build(self) -> None:
        for name in (self.node, self.container):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        (self.run_dir / "netns").mkdir()
        (self.run_dir / "netns" / TASK).symlink_to(self.netns)

    def make_bridge(self) -> None:
        ip("-n", self.node, "link", "add", "mbr-netb", "type", "bridge")
        ip("-n", self.node, "address", "add", f"{GATEWAY}/24", "dev", "mbr-netb")
        ip("-n", self.node, "link", "set", "mbr-netb", "up")
        ip("-n", self.node, "link", "add", "mve", "type", "veth", "peer", "eth0", "netns", self.container)
        ip("-n", self.node, "link", "set", "mve", "master", "mbr-netb", "up")
        ip("-n", self.container, "address", "add", f"{ADDRESS}/24", "dev", "eth0")
        ip("-n", self.container, "link", "set", "eth0", "up")

    def remove_bridge(self) -> None:
        ip("-n", self.node, "link", "delete", "mve")
        ip("-n", self.node, "link", "delete", "mbr-netb")

    def start(self) -> None:
        command = [str(BIN / "mini-ingress"), f"--data-dir={self.run_dir}", f"--run-dir={self.run_dir}"]
        with (self.run_dir / "log").open("ab") as log:
            self.ingress = subprocess.Popen(
                ["ip", "netns", "exec", self.node, *command], stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.ingress is not None:
            self.ingress.kill()
            self.ingress.wait()

    def apply(self, dns: pb.DnsTable) -> pb.IngressApplied:
        with grpc.insecure_channel(f"unix:{self.run_dir}/ingress.sock") as channel:
            stub = ingress_pb2_grpc.IngressStub(channel)
            return stub.Apply(pb.IngressTable(dns=dns), timeout=30, wait_for_ready=True)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run in the container's network."""
        return subprocess.run(
            ["ip", "netns", "exec", self.container, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def getent(self, resolv_conf: str, *arguments: str) -> str:
        """What the C library's resolver makes of it."""
        path = self.run_dir / "resolv.conf"
        path.write_text(resolv_conf)
        script = 'mount --bind "$0" /etc/resolv.conf && getent "$@"'
        return self.inside("unshare", "--mount", "sh", "-c", script, str(path), *arguments).stdout

    def close(self) -> None:
        self.kill()
        for name in (self.node, self.container):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=30)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(f"dns{os.getpid() % 100000}", tmp_path)
    try:
        node.build()
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[OciRuntime]:
    runtime = await open_oci(OciSettings(tmp_path / "data", tmp_path / "oci"))
    await runtime.images.load(
        chunks(
            images.write_docker_archive(
                tmp_path / "image.tar",
                images.Image("busybox:latest", (images.base_layer(),), {"Cmd": ["sh"]}),
            )
        )
    )
    yield runtime
    for container in await runtime.list():
        await runtime.remove(container.id)
    await runtime.close()


async def run(runtime: OciRuntime, node: Node, script: str) -> str:
    config = ContainerConfig(
        id=TASK,
        name="asks",
        image="busybox:latest",
        command=("sh", "-c", script),
        netns=node.netns,
        networks_dns=GATEWAY,
    )
    await runtime.create(config)
    await runtime.start(config.id)
    await runtime.wait(config.id)
    return b"\n".join([line.data async for batch in runtime.logs(config.id) for line in batch]).decode()


async def test_a_container_finds_names_through_its_resolv_conf(node: Node, runtime: OciRuntime) -> None:
    node.make_bridge()
    assert not node.apply(TABLE).dns_problems
    output = await run(
        runtime,
        node,
        "cat /etc/resolv.conf; nslookup web; nslookup 2.web; nslookup 10.0.1.5; nslookup -type=a tasks.www",
    )
    assert f"nameserver {GATEWAY}\n" in output
    assert "options ndots:0" in output
    assert "Address: 10.0.1.2" in output
    assert output.count("Address: 10.0.1.6") == 2
    assert f"name = web.1.{task_id(1)}.backend" in output


def test_the_c_library_follows_a_cut_answer_to_tcp(node: Node) -> None:
    node.make_bridge()
    node.apply(TABLE)
    text = f"nameserver {GATEWAY}\noptions ndots:0\n"
    lines = node.getent(text, "ahostsv4", "many").splitlines()
    assert len({line.split()[0] for line in lines}) == 220
    assert node.getent(text, "hosts", "WEB.Backend").split() == ["10.0.1.2", "WEB.Backend"]
    assert node.getent(text, "hosts", "10.0.1.2").split() == ["10.0.1.2", "web.backend"]


def test_a_gateway_that_comes_later_is_served_at_once_and_again_when_it_is_new(node: Node) -> None:
    assert not node.apply(TABLE).dns_problems
    for _ in range(2):
        node.make_bridge()
        assert "Address: 10.0.1.2" in node.inside("busybox", "nslookup", "web", GATEWAY).stdout
        assert "Address: 10.0.1.2" in node.inside("busybox", "nslookup", "www", GATEWAY).stdout
        node.remove_bridge()


def test_a_killed_process_answers_again_without_the_agent(node: Node) -> None:
    node.make_bridge()
    node.apply(TABLE)
    node.kill()
    assert "10.0.1.2" not in node.inside("busybox", "nslookup", "web", GATEWAY).stdout
    node.start()
    deadline = time.monotonic() + 30
    while "Address: 10.0.1.2" not in node.inside("busybox", "nslookup", "web", GATEWAY).stdout:
        assert time.monotonic() < deadline, (node.run_dir / "log").read_text()


def test_a_containers_own_name_servers_are_asked_from_inside_it(node: Node) -> None:
    node.make_bridge()
    asks = client(ADDRESS, "netb", task=TASK, nameservers=("127.0.0.1",))
    node.apply(table((BACKEND,), (WEB,), (asks,)))
    command = ["ip", "netns", "exec", node.container, "python3", "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            output = node.inside("busybox", "nslookup", "-type=a", "example.com", GATEWAY).stdout
        finally:
            server.kill()
    assert "Address: 192.0.2.7" in output


def test_a_name_that_nobody_can_be_asked_for_fails_at_once(node: Node) -> None:
    node.make_bridge()
    asks = client(ADDRESS, "netb", task="gone", nameservers=("192.0.2.1",))
    node.apply(table((BACKEND,), (WEB,), (asks,)))
    begun = time.monotonic()
    output = node.inside("busybox", "nslookup", "example.com", GATEWAY)
    assert "SERVFAIL" in output.stdout + output.stderr
    assert time.monotonic() - begun < 3
