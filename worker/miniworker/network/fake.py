"""A `DataPlane` without a kernel: the same rules, kept in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from miniworker.network.api import AttachedSandbox, Connections, Difference, Fabric, HostPort, Sandbox
from miniworker.network.errors import PortInUseError, UnknownNetworkError

_FIRST_CHOSEN_PORT = 32768


class FakeDataPlane:
    """Refuses what the real one refuses: a network that is not in the fabric, a host port that is taken."""

    def __init__(self, netns_dir: Path = Path("/run/mini/netns")) -> None:
        self._netns_dir = netns_dir
        self.fabric: Fabric | None = None
        self.sandboxes: dict[str, Sandbox] = {}
        self.open: dict[str, Connections] = {}
        """What a test says about who is connected to which task."""

    async def set_fabric(self, fabric: Fabric) -> None:
        self.fabric = fabric

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        self._check_networks(sandbox)
        if sandbox.task_id not in self.sandboxes:
            ports = self._choose(sandbox.host_ports)
            self.sandboxes[sandbox.task_id] = replace(sandbox, host_ports=ports)
        return self._attached(self.sandboxes[sandbox.task_id])

    async def reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        present = self.sandboxes.get(sandbox.task_id)
        if present is None or set(present.attachments) == set(sandbox.attachments):
            return None
        self._check_networks(sandbox)
        self.sandboxes[sandbox.task_id] = replace(present, attachments=sandbox.attachments)
        return self._attached(self.sandboxes[sandbox.task_id])

    def _check_networks(self, sandbox: Sandbox) -> None:
        known = {network.id for network in self.fabric.networks} if self.fabric else set()
        for attachment in sandbox.attachments:
            if attachment.network_id not in known:
                raise UnknownNetworkError(f"network {attachment.network_id} is not on this node")

    def _attached(self, kept: Sandbox) -> AttachedSandbox:
        by_id = {network.id: network for network in self.fabric.networks} if self.fabric else {}
        named = [item for item in kept.attachments if not by_id[item.network_id].ingress]
        addresses = [item.address for item in (*named, *kept.attachments)]
        return AttachedSandbox(
            netns=self._netns_dir / kept.task_id,
            host_ports=kept.host_ports,
            hosts_address=addresses[0] if addresses else IPv4Address("172.18.0.2"),
            nameserver=by_id[named[0].network_id].gateway if named else None,
        )

    async def open_socket(self, task_id: str) -> socket.socket:
        """One of this machine's own."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        return opened

    async def connections(self, task_id: str) -> Connections:
        return self.open.get(task_id, Connections())

    async def detach(self, task_id: str) -> None:
        self.sandboxes.pop(task_id, None)

    async def adopt(self, task_ids: frozenset[str]) -> None:
        self.sandboxes = {key: value for key, value in self.sandboxes.items() if key in task_ids}

    async def verify(self) -> tuple[Difference, ...]:
        """None: nobody else can change what is kept here."""
        return ()

    async def repair(self) -> tuple[Difference, ...]:
        return ()

    async def watch(self) -> None:
        await asyncio.Event().wait()

    @property
    def repairs(self) -> Mapping[str, int]:
        return {}

    async def clear(self) -> None:
        self.sandboxes.clear()
        self.fabric = None

    def _choose(self, wanted: tuple[HostPort, ...]) -> tuple[HostPort, ...]:
        held = {
            (port.protocol, port.published_port): task_id
            for task_id, sandbox in self.sandboxes.items()
            for port in sandbox.host_ports
        }
        chosen: list[HostPort] = []
        for port in wanted:
            number = port.published_port or _FIRST_CHOSEN_PORT
            while not port.published_port and (port.protocol, number) in held:
                number += 1
            if holder := held.get((port.protocol, number)):
                raise PortInUseError(f"port {number}/{port.protocol} is in use on this node by task {holder}")
            held[port.protocol, number] = "this task"
            chosen.append(replace(port, published_port=number))
        return tuple(chosen)
