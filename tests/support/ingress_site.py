"""Nodes with a data plane and a mini-ingress each, and tasks that say who asked them. No manager: a test plays it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import grpc
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2, ingress_pb2_grpc
from miniproto.v1 import objects_pb2 as pb
from miniworker.network.api import (
    AttachedSandbox,
    Attachment,
    Fabric,
    HostPort,
    OverlayNetwork,
    RemoteEndpoint,
    Sandbox,
)
from support.cluster import BIN, eventually
from support.data_plane_driver import Driver
from support.hosts import Host, Lab

NETWORK = "ingress0aaaaaaaaaaaaaaaaa"
SUBNET = IPv4Network("10.0.0.0/24")

SERVER = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
tcp = socket.create_server(("0.0.0.0", port), backlog=64)
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", port))
def datagrams():
    while True:
        _, peer = udp.recvfrom(2048)
        udp.sendto(f"{name} {peer[0]}".encode(), peer)
def connection(client, peer):
    with client:
        client.sendall(f"{name} {peer[0]}\\n".encode())
        while data := client.recv(65536):
            client.sendall(data)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=connection, args=tcp.accept(), daemon=True).start()
"""

ASK = """
import socket, sys
protocol, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    if protocol == "tcp":
        with socket.create_connection((address, port), timeout=3) as asker:
            print(asker.makefile().readline().strip())
    else:
        with socket.socket(type=socket.SOCK_DGRAM) as asker:
            asker.settimeout(3)
            asker.connect((address, port))
            asker.send(b"?")
            print(asker.recv(2048).decode())
"""


@dataclass(frozen=True, slots=True)
class Answer:
    task: str
    peer: str
    """The client's address as the task saw it."""


@dataclass(slots=True)
class Node:
    """A host with the parts of a node that this area is about."""

    host: Host
    number: int
    driver: Driver
    channel: grpc.Channel
    ingress: subprocess.Popen[bytes] | None = None
    tasks: dict[str, IPv4Address] = field(default_factory=dict)
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def ingress_address(self) -> IPv4Address:
        return SUBNET[1 + self.number]

    @property
    def run_dir(self) -> Path:
        return self.host.directory / "run"

    @property
    def netns_dir(self) -> Path:
        return self.run_dir / "netns"

    def start_ingress(self, *options: str) -> None:
        directories = (f"--data-dir={self.run_dir}", f"--run-dir={self.run_dir}")
        command = [str(BIN / "mini-ingress"), *directories, *options]
        self.ingress = self.host.start(command, log="mini-ingress.log")

    def kill_ingress(self) -> None:
        """The process itself, which is a child of what was started, and wait until it is gone."""
        assert self.ingress is not None
        listed = self.host.run(["pgrep", "-f", f"mini-ingress --data-dir={self.run_dir}"]).stdout.split()
        self.host.run(["kill", "-9", *listed])
        self.ingress.wait()

    def restart_ingress(self, *options: str) -> None:
        """As after `kill -9`."""
        self.kill_ingress()
        self.start_ingress(*options)

    def apply(self, *ports: dispatch.PublishedPort) -> ingress_pb2.IngressApplied:
        stub = ingress_pb2_grpc.IngressStub(self.channel)
        table = ingress_pb2.IngressTable(ports=ports, node_id=self.host.name)
        return stub.Apply(table, timeout=20, wait_for_ready=True)


class Site:
    """Nodes 1..n on a lab's hosts; `spread_fabric` tells every one of them where everything is."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes: dict[str, Node] = {}

    def add_node(self, name: str, number: int) -> Node:
        host = self.lab[name]
        run_dir = host.directory / "run"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        node = Node(
            host,
            number,
            Driver(host, run_dir / "netns"),
            grpc.insecure_channel(f"unix:{run_dir}/ingress.sock"),
        )
        node.start_ingress()
        self.nodes[name] = node
        return node

    def fabric(self, node: Node) -> Fabric:
        endpoints: list[RemoteEndpoint] = []
        for name, other in self.nodes.items():
            vtep = IPv4Address(other.host.address)
            endpoints.append(RemoteEndpoint(NETWORK, other.ingress_address, name, vtep))
            endpoints += [
                RemoteEndpoint(NETWORK, address, name, vtep, task) for task, address in other.tasks.items()
            ]
        network = OverlayNetwork(
            NETWORK, "ingress", SUBNET, SUBNET[1], 4096, 1450, True, node.ingress_address
        )
        return Fabric(node.host.name, IPv4Address(node.host.address), (network,), tuple(endpoints))

    def spread_fabric(self) -> None:
        for node in self.nodes.values():
            node.driver.call("set_fabric", self.fabric(node))

    def start_task(
        self, name: str, task: str, address: IPv4Address, *, port: int, host_ports: tuple[HostPort, ...] = ()
    ) -> AttachedSandbox:
        """A server on `port` in a sandbox at `address`; the fabric must be spread after it."""
        node = self.nodes[name]
        node.tasks[task] = address
        sandbox = Sandbox(task, (Attachment(NETWORK, address),), host_ports)
        attached: AttachedSandbox = node.driver.call("attach", sandbox)
        self.serve(node, task, attached.netns, port=port)
        return attached

    def serve(self, node: Node, task: str, netns: Path, *, port: int) -> None:
        command = ["nsenter", f"--net={netns}", sys.executable, "-I", "-c", SERVER, task, str(port)]
        node.servers[task] = node.host.start(command, log=f"{task}.log")
        eventually(lambda: "ready" in node.host.log(f"{task}.log"), f"{task} serves")

    def stop_server(self, name: str, task: str) -> None:
        node = self.nodes[name]
        process = node.servers.pop(task)
        process.kill()
        process.wait()

    def close(self) -> None:
        for node in self.nodes.values():
            node.driver.close()
            node.channel.close()


def published(
    port: int,
    target: int,
    backends: dict[str, IPv4Address],
    *,
    protocol: str = "tcp",
    service: str = "whoami",
    nodes: Mapping[str, str] | None = None,
    host_ip: str = "",
    locality: pb.PortLocality.ValueType = pb.PORT_LOCALITY_ANY,
    sticky: bool = False,
    proxy_protocol: int = 0,
) -> dispatch.PublishedPort:
    """`nodes` tells where each of the tasks in `backends` is, where that matters."""
    places = nodes or {}
    return dispatch.PublishedPort(
        protocol=pb.PORT_PROTOCOL_TCP if protocol == "tcp" else pb.PORT_PROTOCOL_UDP,
        published_port=port,
        target_port=target,
        service_name=service,
        backends=[
            dispatch.Backend(task_id=task, address=str(item), node_id=places.get(task, ""))
            for task, item in backends.items()
        ],
        host_ip=host_ip,
        locality=locality,
        sticky=sticky,
        proxy_protocol=proxy_protocol,
    )


def ask(host: Host, address: str, port: int, *, protocol: str = "tcp", count: int = 1) -> list[Answer]:
    """What comes back from `count` questions asked on `host`. Raises CalledProcessError when one is not answered."""
    command = [sys.executable, "-I", "-c", ASK, protocol, address, str(port), str(count)]
    return [Answer(*line.split()) for line in host.run(command).stdout.splitlines()]
