"""The sandboxes of a node: which there are, their addresses and host ports, making and removing them.

Whoever calls has the turn for the task, or is alone (`turns`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from minicommon.log import fields

from miniworker.network.api import AttachedSandbox, Fabric, HostPort, Sandbox
from miniworker.network.conntrack import forget_udp
from miniworker.network.gateway import PortForward, choose_address
from miniworker.network.host import HostTable
from miniworker.network.host_ports import choose_ports, forwards_of, ports_of
from miniworker.network.leaving import LeavingLinks
from miniworker.network.model import EMPTY, KernelState
from miniworker.network.names import gateway_port_name, port_name
from miniworker.network.namespaces import remove_namespace
from miniworker.network.ports import port_holder, port_is_free
from miniworker.network.sandbox_plan import (
    SandboxPlan,
    leads_out,
    overlay_interfaces,
    plan_found,
    plan_sandbox,
    reattached,
)
from miniworker.network.sandboxes import (
    FoundSandbox,
    find_sandbox,
    make_sandbox,
    mend,
    ports_of_task,
    remove_links,
)
from miniworker.network.works import all_of

logger = logging.getLogger(__name__)


class SandboxKeeper:
    """Reads the sandboxes of `netns_dir` from the kernel when it is first asked."""

    def __init__(self, netns_dir: Path, host: HostTable) -> None:
        self._netns_dir = netns_dir
        self._host = host
        self._leaving = LeavingLinks()
        self._reading = asyncio.Lock()
        self._reserving = asyncio.Lock()
        self._sandboxes: dict[str, FoundSandbox] | None = None
        """By task id, those included that are being made or removed. None: not known yet."""
        self.generations: dict[str, int] = {}
        """By task id, of rules that are as planned; not there: they have to be read."""

    def path(self, task_id: str) -> Path:
        return self._netns_dir / task_id

    async def known(self) -> dict[str, FoundSandbox]:
        """The sandboxes, read from the kernel the first time; one whose making was interrupted is removed."""
        async with self._reading:
            if self._sandboxes is None:
                subnet = await self._host.read()
                self._sandboxes = await asyncio.to_thread(_read_sandboxes, self._netns_dir, subnet)
                living = {address for item in self._sandboxes.values() for _, address in item.addresses}
                self._host.forwards = frozenset(
                    item for item in self._host.forwards if item.address in living
                )
            return self._sandboxes

    async def plans(self, fabric: Fabric) -> dict[str, SandboxPlan]:
        """What each should look like, by task id."""
        subnet = await self._host.ensure()
        return {
            task_id: plan_found(task_id, found.addresses, fabric, subnet=subnet)
            for task_id, found in (await self.known()).items()
        }

    async def attach(self, sandbox: Sandbox, fabric: Fabric) -> tuple[AttachedSandbox, KernelState]:
        """The sandbox, made unless it is there already, and the entries of the node that came with it."""
        sandboxes = await self.known()
        subnet = await self._host.ensure()
        if found := sandboxes.get(sandbox.task_id):
            if attached := self._same(sandbox, fabric, found, subnet):
                return attached, EMPTY
            await self.remove(sandbox.task_id)
        wanted, ports = await self._reserve(sandbox, fabric, subnet)
        try:
            made = await asyncio.to_thread(make_sandbox, self.path(sandbox.task_id), wanted)
            await self._host.publish()
        except BaseException:
            await self.remove(sandbox.task_id)
            raise
        self.generations[sandbox.task_id] = made
        entries = frozenset(item.neighbor for item in wanted.interfaces if item.overlay)
        return self._attached(sandbox, wanted, ports), entries

    async def reattach(self, sandbox: Sandbox, fabric: Fabric) -> tuple[AttachedSandbox, KernelState] | None:
        """Lead a living sandbox to other networks. None: there is none, or it is on these already."""
        sandboxes = await self.known()
        subnet = await self._host.ensure()
        found = sandboxes.get(sandbox.task_id)
        asked = {item.address for item in sandbox.attachments}
        if found is None or _overlay_addresses(found, subnet) == asked:
            return None
        async with self._reserving:
            local_address = found.local_address(subnet)
            if not leads_out(sandbox, fabric):
                local_address = None
            elif local_address is None:
                local_address = _free_address(sandboxes, subnet)
            wanted = reattached(sandbox, found.addresses, fabric, subnet=subnet, local_address=local_address)
            sandboxes[sandbox.task_id] = FoundSandbox(wanted)
        planned = plan_found(sandbox.task_id, wanted, fabric, subnet=subnet)
        try:
            gone = found.addresses - wanted
            await self._leaving.remove([_port(sandbox.task_id, item, subnet) for item in gone])
            await self.mend(sandbox.task_id, planned)
        except BaseException:
            sandboxes[sandbox.task_id] = found
            raise
        entries = frozenset(item.neighbor for item in planned.interfaces if item.overlay)
        return self._attached(sandbox, planned, sandbox.host_ports), entries

    async def mend(self, task_id: str, wanted: SandboxPlan) -> None:
        """Make what the sandbox holds equal to its plan."""
        self.generations.pop(task_id, None)
        self.generations[task_id] = await asyncio.to_thread(mend, self.path(task_id), wanted)

    def _same(
        self, sandbox: Sandbox, fabric: Fabric, found: FoundSandbox, subnet: IPv4Network
    ) -> AttachedSandbox | None:
        """The answer for a sandbox that is there already, None when it is not what is asked for."""
        local_address = found.local_address(subnet)
        wanted = plan_sandbox(sandbox, fabric, subnet=subnet, local_address=local_address)
        ports = ports_of(sandbox, self._host.forwards, wanted.source)
        if wanted.addresses != found.addresses or ports is None:
            return None
        return self._attached(sandbox, wanted, ports)

    async def _reserve(
        self, sandbox: Sandbox, fabric: Fabric, subnet: IPv4Network
    ) -> tuple[SandboxPlan, tuple[HostPort, ...]]:
        """Choose the local address and the host ports: nobody else gets them from here on."""
        sandboxes = await self.known()
        async with self._reserving:
            local_address = None
            if leads_out(sandbox, fabric):
                local_address = _free_address(sandboxes, subnet)
            wanted = plan_sandbox(sandbox, fabric, subnet=subnet, local_address=local_address)
            ports: tuple[HostPort, ...] = ()
            if sandbox.host_ports:
                ports = await asyncio.to_thread(
                    _choose_ports, sandbox, _holders(sandboxes, self._host.forwards)
                )
            sandboxes[sandbox.task_id] = FoundSandbox(wanted.addresses)
            if wanted.source is not None:
                self._host.forwards |= forwards_of(ports, wanted.source)
        return wanted, ports

    def _attached(
        self, sandbox: Sandbox, wanted: SandboxPlan, ports: tuple[HostPort, ...]
    ) -> AttachedSandbox:
        return AttachedSandbox(
            netns=self.path(sandbox.task_id),
            host_ports=ports,
            hosts_address=wanted.hosts_address,
            nameserver=wanted.nameserver,
        )

    async def remove(self, task_id: str) -> None:
        """Remove what there is of a sandbox; its addresses and ports are free when it is gone."""
        sandboxes = await self.known()
        found = sandboxes.get(task_id)
        gone = {item for item in self._host.forwards if found and found.has(item.address)}
        if gone:
            self._host.forwards -= gone
            await self._host.publish()
            await asyncio.to_thread(_forget_flows, gone)
        await self._leaving.remove(ports_of_task(task_id))
        await asyncio.to_thread(remove_namespace, self.path(task_id))
        sandboxes.pop(task_id, None)
        self.generations.pop(task_id, None)

    async def keep(self, task_ids: frozenset[str]) -> None:
        """Remove those of all other tasks."""
        surplus = (await self.known()).keys() - task_ids
        for task_id in sorted(surplus):
            logger.info("Removing a sandbox without a task.", extra=fields(task_id=task_id))
        await all_of(self.remove(task_id) for task_id in surplus)

    async def clear(self) -> None:
        """Remove all."""
        await all_of(self.remove(task_id) for task_id in tuple(await self.known()))

    def forget(self) -> None:
        """What is known: it will be read again."""
        self._sandboxes = None
        self.generations.clear()


def local_neighbors(sandboxes: Mapping[str, FoundSandbox], fabric: Fabric) -> KernelState:
    """Entries for the tasks here that the fabric does not name yet, or no more."""
    return frozenset(
        interface.neighbor
        for task_id, found in sandboxes.items()
        for interface in overlay_interfaces(task_id, found.addresses, fabric)
    )


def _free_address(sandboxes: Mapping[str, FoundSandbox], subnet: IPv4Network) -> IPv4Address:
    """One on the local bridge; whoever asks holds the lock of reserving."""
    used = (item.local_address(subnet) for item in sandboxes.values())
    return choose_address(subnet, frozenset(item for item in used if item))


def _overlay_addresses(found: FoundSandbox, subnet: IPv4Network) -> set[IPv4Address]:
    return {address for _, address in found.addresses if address not in subnet}


def _port(task_id: str, interface: tuple[str, IPv4Address], subnet: IPv4Network) -> str:
    """The host's end of a sandbox' interface."""
    name, address = interface
    if address in subnet:
        return gateway_port_name(task_id)
    return port_name(task_id, int(name.removeprefix("eth")))


def _holders(
    sandboxes: Mapping[str, FoundSandbox], forwards: Iterable[PortForward]
) -> dict[tuple[str, int], str]:
    """Who has each of our host ports."""
    tasks = {address: task_id for task_id, found in sandboxes.items() for _, address in found.addresses}
    return {item.key: f"task {tasks.get(item.address, 'unknown')}" for item in forwards}


# --- in threads ---


def _choose_ports(sandbox: Sandbox, held: Mapping[tuple[str, int], str]) -> tuple[HostPort, ...]:
    return choose_ports(sandbox.host_ports, held, is_free=port_is_free, holder=port_holder)


def _forget_flows(forwards: Iterable[PortForward]) -> None:
    for item in forwards:
        if item.protocol == "udp":
            forget_udp(item.published_port, [item.address])


def _read_sandboxes(netns_dir: Path, subnet: IPv4Network | None) -> dict[str, FoundSandbox]:
    sandboxes: dict[str, FoundSandbox] = {}
    for path in sorted(netns_dir.iterdir()) if netns_dir.is_dir() else ():
        found = find_sandbox(path)
        if found and found.complete and subnet:
            sandboxes[path.name] = found
        else:
            remove_links(ports_of_task(path.name))
            remove_namespace(path)
    return sandboxes
