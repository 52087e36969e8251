"""The hook for networks: the task's namespace, with its addresses in place before the first process starts."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Protocol

from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.agent.container import container_hostname, host_ports
from miniworker.agent.hooks.api import Prepared
from miniworker.network.api import AttachedSandbox, Attachment, DataPlane, Sandbox
from miniworker.network.errors import UnknownNetworkError


class NetworksReady(Protocol):
    """Tells when the node has the networks that a task names."""

    async def wait_for_networks(self, network_ids: frozenset[str]) -> None:
        """Return once all of them are in the kernel."""

    async def wait_for_names(self, task_id: str) -> None:
        """Return once the task may ask for the names of its networks."""


class SandboxHook:
    """Attaches a task to its networks and binds its host-mode ports."""

    def __init__(self, data_plane: DataPlane, networks: NetworksReady) -> None:
        self._data_plane = data_plane
        self._networks = networks

    async def wait_ready(self, task: dispatch.AssignedTask) -> None:
        await self._networks.wait_for_networks(frozenset(item.network_id for item in task.attachments))
        await self._networks.wait_for_names(task.id)

    async def prepare(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared:
        return _with(prepared, await self._data_plane.attach(_sandbox(task)))

    async def change(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared | None:
        """What is as it should be already needs no network: a new agent may not know any yet."""
        try:
            attached = await self._data_plane.reattach(_sandbox(task))
        except UnknownNetworkError:
            await self._networks.wait_for_networks(frozenset(item.network_id for item in task.attachments))
            attached = await self._data_plane.reattach(_sandbox(task))
        return _with(prepared, attached) if attached is not None else None

    async def cleanup(self, task_id: str) -> None:
        await self._data_plane.detach(task_id)


def _sandbox(task: dispatch.AssignedTask) -> Sandbox:
    attachments = tuple(Attachment(item.network_id, IPv4Address(item.address)) for item in task.attachments)
    return Sandbox(task.id, attachments, host_ports(task))


def _with(prepared: Prepared, attached: AttachedSandbox) -> Prepared:
    """What the container is told of its sandbox."""
    config = prepared.config
    hosts = config.hosts
    if attached.hosts_address is not None:
        hosts = (*hosts, (str(attached.hosts_address), container_hostname(config)))
    return replace(
        prepared,
        config=replace(
            config,
            netns=attached.netns,
            hosts=hosts,
            networks_dns=str(attached.nameserver) if attached.nameserver else "",
        ),
        host_ports=attached.host_ports,
    )
