"""The data plane on the kernel of this machine.

All state is the kernel's. What this class remembers it can read back: the fabric comes again from the agent, sandboxes
from their namespaces, host ports from the nftables table. Its memory belongs to the event loop, its work in the kernel
is done in threads: that on different tasks side by side, that on the fabric while nothing else is done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from minicommon.clock import Clock, SystemClock
from minicommon.log import fields
from pyroute2 import IPRoute

from miniworker.network.api import AttachedSandbox, Connections, Fabric, HostPort, Sandbox
from miniworker.network.apply import Applier
from miniworker.network.connections import connections_here
from miniworker.network.conntrack import forget_udp
from miniworker.network.delta import delta
from miniworker.network.gateway import PortForward, choose_address
from miniworker.network.host import HostTable
from miniworker.network.host_ports import choose_ports, forwards_of, ports_of
from miniworker.network.leaving import LeavingLinks
from miniworker.network.model import EMPTY, Bridge, KernelState, Operation
from miniworker.network.names import bridge_name
from miniworker.network.namespaces import in_namespace, is_namespace, remove_namespace
from miniworker.network.observe import observe
from miniworker.network.plan import VXLAN_PORT, plan, return_paths
from miniworker.network.ports import port_holder, port_is_free
from miniworker.network.sandbox_plan import SandboxPlan, on_ingress, overlay_interfaces, plan_sandbox
from miniworker.network.sandboxes import (
    FoundSandbox,
    find_sandbox,
    make_sandbox,
    ports_of_task,
    reconnect,
    remove_links,
    set_returns,
)
from miniworker.network.turns import Turns

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SYSTEM_CLOCK = SystemClock()


class KernelDataPlane:
    """A `DataPlane`. One per network namespace of the host; needs root."""

    def __init__(
        self, netns_dir: Path, *, vxlan_port: int = VXLAN_PORT, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._netns_dir = netns_dir
        self._vxlan_port = vxlan_port
        self._turns = Turns()
        self._reading = asyncio.Lock()
        self._reserving = asyncio.Lock()
        self._host = HostTable(clock=clock)
        self._leaving = LeavingLinks()
        self._fabric: Fabric | None = None
        self._settled: Fabric | None = None
        """The fabric that every sandbox follows; None: not known."""
        self._applied: KernelState | None = None
        """None: not known, so the kernel is read first."""
        self._sandboxes: dict[str, FoundSandbox] | None = None
        """By task id, those included that are being made or removed. None: not known yet."""

    async def set_fabric(self, fabric: Fabric) -> None:
        await _to_the_end(self._set_fabric(fabric))

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        return await _to_the_end(self._attach(sandbox))

    async def open_socket(self, task_id: str) -> socket.socket:
        return await asyncio.to_thread(in_namespace, self._path(task_id), _tcp_socket)

    async def connections(self, task_id: str) -> Connections:
        path = self._path(task_id)
        if not is_namespace(path):
            return Connections()
        return await asyncio.to_thread(in_namespace, path, connections_here)

    async def detach(self, task_id: str) -> None:
        await _to_the_end(self._detach(task_id))

    async def adopt(self, task_ids: frozenset[str]) -> None:
        await _to_the_end(self._adopt(task_ids))

    async def clear(self) -> None:
        await _to_the_end(self._clear())

    # --- the fabric ---

    async def _set_fabric(self, fabric: Fabric) -> None:
        async with self._turns.alone():
            sandboxes = await self._known()
            await self._host.ensure()
            wanted = plan(fabric, vxlan_port=self._vxlan_port) | _local_neighbors(sandboxes, fabric)
            observed, self._applied = self._applied, None
            operations = await asyncio.to_thread(_converge, wanted, observed)
            settled, self._settled = self._settled, None
            self._fabric, self._host.networks = fabric, fabric.networks
            await self._host.publish()
            bridges = (
                _new_bridges(operations) if settled else {bridge_name(item.id) for item in fabric.networks}
            )
            if bridges or settled is None or return_paths(settled) != return_paths(fabric):
                await _all(
                    asyncio.to_thread(_follow, self._path(task_id), found, fabric, bridges)
                    for task_id, found in sandboxes.items()
                )
            self._applied, self._settled = wanted, fabric
        if operations:
            logger.debug("Fabric applied.", extra=fields(operations=len(operations)))

    # --- sandboxes ---

    async def _attach(self, sandbox: Sandbox) -> AttachedSandbox:
        async with self._turns.of(sandbox.task_id):
            sandboxes = await self._known()
            subnet = await self._host.ensure()
            if found := sandboxes.get(sandbox.task_id):
                if attached := self._same(sandbox, found, subnet):
                    return attached
                await self._remove(sandbox.task_id)
            wanted, ports = await self._reserve(sandbox, subnet)
            try:
                await asyncio.to_thread(make_sandbox, self._path(sandbox.task_id), wanted)
                await self._host.publish()
            except BaseException:
                await self._remove(sandbox.task_id)
                raise
            if self._applied is not None:
                self._applied |= {item.neighbor for item in wanted.interfaces if item.overlay}
            return self._attached(sandbox, wanted, ports)

    def _same(self, sandbox: Sandbox, found: FoundSandbox, subnet: IPv4Network) -> AttachedSandbox | None:
        """The answer for a sandbox that is there already, None when it is not what is asked for."""
        local_address = found.local_address
        assert local_address is not None, "only complete sandboxes are kept"
        wanted = self._plan(sandbox, subnet, local_address)
        ports = ports_of(sandbox, self._host.forwards, wanted.source)
        if wanted.addresses != found.addresses or ports is None:
            return None
        return self._attached(sandbox, wanted, ports)

    async def _reserve(
        self, sandbox: Sandbox, subnet: IPv4Network
    ) -> tuple[SandboxPlan, tuple[HostPort, ...]]:
        """Choose the local address and the host ports: nobody else gets them from here on."""
        sandboxes = await self._known()
        async with self._reserving:
            taken = frozenset(item.local_address for item in sandboxes.values() if item.local_address)
            wanted = self._plan(sandbox, subnet, choose_address(subnet, taken))
            ports: tuple[HostPort, ...] = ()
            if sandbox.host_ports:
                ports = await asyncio.to_thread(
                    _choose_ports, sandbox, _holders(sandboxes, self._host.forwards)
                )
            sandboxes[sandbox.task_id] = FoundSandbox(wanted.addresses, wanted.gateway)
            self._host.forwards |= forwards_of(ports, wanted.source)
        return wanted, ports

    def _plan(self, sandbox: Sandbox, subnet: IPv4Network, address: IPv4Address) -> SandboxPlan:
        fabric = self._fabric or Fabric(node_id="", data_path_address=IPv4Address(0))
        return plan_sandbox(sandbox, fabric, subnet=subnet, local_address=address)

    def _attached(
        self, sandbox: Sandbox, wanted: SandboxPlan, ports: tuple[HostPort, ...]
    ) -> AttachedSandbox:
        return AttachedSandbox(
            netns=self._path(sandbox.task_id), host_ports=ports, hosts_address=wanted.interfaces[0].address
        )

    async def _detach(self, task_id: str) -> None:
        async with self._turns.of(task_id):
            await self._known()
            await self._remove(task_id)

    async def _adopt(self, task_ids: frozenset[str]) -> None:
        async with self._turns.alone():
            surplus = (await self._known()).keys() - task_ids
            for task_id in sorted(surplus):
                logger.info("Removing a sandbox without a task.", extra=fields(task_id=task_id))
            await _all(self._remove(task_id) for task_id in surplus)

    async def _clear(self) -> None:
        async with self._turns.alone():
            await _all(self._remove(task_id) for task_id in tuple(await self._known()))
            await asyncio.to_thread(_converge, EMPTY, None)
            await self._host.clear()
            self._fabric, self._settled, self._applied, self._sandboxes = None, None, None, None

    async def _remove(self, task_id: str) -> None:
        """Remove what there is of a sandbox; its addresses and ports are free when it is gone."""
        sandboxes = await self._known()
        found = sandboxes.get(task_id)
        gone = {item for item in self._host.forwards if found and found.has(item.address)}
        if gone:
            self._host.forwards -= gone
            await self._host.publish()
            await asyncio.to_thread(_forget_flows, gone)
        await self._leaving.remove(ports_of_task(task_id))
        await asyncio.to_thread(remove_namespace, self._path(task_id))
        sandboxes.pop(task_id, None)

    async def _known(self) -> dict[str, FoundSandbox]:
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

    def _path(self, task_id: str) -> Path:
        return self._netns_dir / task_id


# --- in threads ---


def _converge(wanted: KernelState, observed: KernelState | None) -> tuple[Operation, ...]:
    """Lead the kernel to `wanted`; what was to be done. `observed` None: look first."""
    with IPRoute() as netlink:
        operations = delta(wanted, observe(netlink) if observed is None else observed)
        Applier(netlink).apply(operations)
    return operations


def _follow(path: Path, found: FoundSandbox, fabric: Fabric, bridges: set[str]) -> None:
    """Give a sandbox that exists the return paths of the fabric, and its place on those `bridges`."""
    if on_ingress(found.addresses, fabric):
        set_returns(path, return_paths(fabric))
    for interface in overlay_interfaces(path.name, found.addresses, fabric):
        if interface.bridge in bridges:
            reconnect(interface)


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
        if found and found.gateway and found.local_address and subnet:
            sandboxes[path.name] = found
        else:
            remove_links(ports_of_task(path.name))
            remove_namespace(path)
    return sandboxes


# --- values ---


def _new_bridges(operations: Iterable[Operation]) -> set[str]:
    return {item.item.name for item in operations if item.add and isinstance(item.item, Bridge)}


def _holders(
    sandboxes: Mapping[str, FoundSandbox], forwards: Iterable[PortForward]
) -> dict[tuple[str, int], str]:
    """Who has each of our host ports."""
    tasks = {address: task_id for task_id, found in sandboxes.items() for _, address in found.addresses}
    return {item.key: f"task {tasks.get(item.address, 'unknown')}" for item in forwards}


def _local_neighbors(sandboxes: Mapping[str, FoundSandbox], fabric: Fabric) -> KernelState:
    """Entries for the tasks here that the fabric does not name yet, or no more."""
    return frozenset(
        interface.neighbor
        for task_id, found in sandboxes.items()
        for interface in overlay_interfaces(task_id, found.addresses, fabric)
    )


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. It is finished even when the caller is cancelled: half a sandbox is of no use."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            logger.warning("Work for a caller that left has failed.", extra=fields(error=str(error)))
        raise


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Do all of it, also when some of it fails, then raise the first error."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _tcp_socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    return opened
