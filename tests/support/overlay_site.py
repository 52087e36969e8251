"""Nodes with a data plane each, user networks on them, and tasks that ask each other. No manager: a test plays it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from miniworker.network.api import (
    Announced,
    AttachedSandbox,
    Attachment,
    EncryptionPeer,
    Fabric,
    OverlayNetwork,
    RemoteEndpoint,
    Sandbox,
    VirtualService,
)
from support.cluster import eventually
from support.data_plane_driver import Driver
from support.hosts import Host, Lab
from support.ingress_site import ASK, SERVER, Answer

PORT = 8000


def network(
    number: int, *, mtu: int = 1450, internal: bool = False, encrypted: bool = False
) -> OverlayNetwork:
    """10.0.<number>.0/24."""
    subnet = IPv4Network(f"10.0.{number}.0/24")
    return OverlayNetwork(
        id=f"net{number:05}aaaaaaaaaaaaaaaaa",
        name=f"net{number}",
        subnet=subnet,
        gateway=subnet[1],
        vni=4096 + number,
        mtu=mtu,
        ingress=False,
        internal=internal,
        encrypted=encrypted,
    )


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    node: str
    attachments: tuple[Attachment, ...]
    netns: Path


@dataclass(slots=True)
class Site:
    """`spread` tells every node where everything is."""

    lab: Lab
    networks: tuple[OverlayNetwork, ...]
    services: tuple[VirtualService, ...] = ()
    drivers: dict[str, Driver] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    keys: dict[str, Announced] = field(default_factory=dict)
    """What the nodes have announced, by node."""
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """What encrypts, by node."""
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def netns_dir(self, name: str) -> Path:
        return self.lab[name].directory / "run" / "netns"

    def add_node(self, name: str) -> None:
        self.netns_dir(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.drivers[name] = Driver(self.lab[name], self.netns_dir(name))

    def encrypt(self, name: str) -> None:
        """The node tells its keys, and has a program that encrypts as soon as there is something to encrypt."""
        self.keys[name] = self.drivers[name].call("keys")
        script = "until ip link show mini-wg; do sleep 0.02; done; exec wireguard-go -f mini-wg"
        self.programs[name] = self.lab[name].start(["sh", "-c", script], log="wireguard-go.log")

    def restart(self, name: str) -> None:
        """A new agent, which takes up what the last one left."""
        self.drivers[name].close()
        self.add_node(name)
        here = frozenset(task.id for task in self.tasks.values() if task.node == name)
        self.drivers[name].call("adopt", here)
        self.drivers[name].call("set_fabric", self.fabric(name))

    def fabric(self, name: str) -> Fabric:
        endpoints = tuple(
            RemoteEndpoint(
                item.network_id,
                item.address,
                task.node,
                IPv4Address(self.lab[task.node].address),
                task.id,
            )
            for task in self.tasks.values()
            for item in task.attachments
        )
        address = IPv4Address(self.lab[name].address)
        peers = tuple(
            EncryptionPeer(node, IPv4Address(self.lab[node].address), keys.current, keys.next)
            for node, keys in sorted(self.keys.items())
        )
        return Fabric(name, address, self.networks, endpoints, self.services, peers)

    def spread(self) -> None:
        for name, driver in self.drivers.items():
            driver.call("set_fabric", self.fabric(name))

    def serve(self, *services: VirtualService) -> None:
        self.services = services
        self.spread()

    def attach(self, node: str, task_id: str, *addresses: IPv4Address) -> AttachedSandbox:
        """A task on the networks that its addresses tell; the others know it once it is spread."""
        attachments = tuple(
            Attachment(item.id, address)
            for address in addresses
            for item in self.networks
            if address in item.subnet
        )
        attached: AttachedSandbox = self.drivers[node].call("attach", Sandbox(task_id, attachments))
        self.tasks[task_id] = Task(task_id, node, attachments, attached.netns)
        return attached

    def start_task(self, node: str, task_id: str, *addresses: IPv4Address) -> None:
        """With a server on `PORT` that says its name."""
        self.attach(node, task_id, *addresses)
        self.start_server(task_id, task_id)

    def start_server(self, name: str, where: str, *, port: int = PORT) -> None:
        """In a task, or on a host itself."""
        command = [sys.executable, "-I", "-c", SERVER, name, str(port)]
        host = self.host_of(where)
        self.servers[name] = host.start([*self._inside(where), *command], log=f"{name}.log")
        eventually(lambda: "ready" in host.log(f"{name}.log"), f"{name} serves")

    def stop_server(self, name: str) -> None:
        process = self.servers.pop(name)
        process.kill()
        process.wait()

    def remove(self, task_id: str) -> None:
        task = self.tasks.pop(task_id)
        if task_id in self.servers:
            self.stop_server(task_id)
        self.drivers[task.node].call("detach", task_id)

    def host_of(self, where: str) -> Host:
        return self.lab[self.tasks[where].node if where in self.tasks else where]

    def run(
        self, where: str, command: list[str], *, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """In a task's namespace, or on a host."""
        return self.host_of(where).run([*self._inside(where), *command], check=check, input=input)

    def python(self, where: str, script: str, *arguments: str) -> str:
        return self.run(where, [sys.executable, "-I", "-c", script, *arguments]).stdout

    def ask(
        self, where: str, address: object, port: int = PORT, *, protocol: str = "tcp", count: int = 1
    ) -> list[Answer]:
        """Raises CalledProcessError when one question is not answered."""
        return [
            Answer(*line.split())
            for line in self.python(where, ASK, protocol, str(address), str(port), str(count)).splitlines()
        ]

    def process(self, where: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        """A program that is told things on its standard input."""
        command = [*self._inside(where), sys.executable, "-I", "-u", "-c", script, *arguments]
        return subprocess.Popen(
            self.host_of(where).command(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for driver in self.drivers.values():
            driver.close()

    def _inside(self, where: str) -> list[str]:
        return ["nsenter", f"--net={self.tasks[where].netns}"] if where in self.tasks else []


def virtual(item: OverlayNetwork, number: int, *backends: IPv4Address) -> VirtualService:
    """The service at the network's `number`-th address."""
    return VirtualService(item.id, f"service{number}", item.subnet[number], tuple(sorted(backends)))


def with_backends(service: VirtualService, *backends: IPv4Address) -> VirtualService:
    return replace(service, backends=tuple(sorted(backends)))
