"""The data plane on the kernel of this machine.

All state is the kernel's. What this class remembers it can read back: the fabric comes again from the agent, sandboxes
from their namespaces, host ports from the nftables table. Its memory belongs to the event loop, its work in the kernel
is done in threads: that on different tasks side by side, that on the fabric while nothing else is done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from minicommon.clock import SECOND, Clock, SystemClock
from minicommon.log import fields
from pyroute2 import IPRoute

from miniworker.network.api import AttachedSandbox, Connections, Difference, Fabric, HostPort, Sandbox
from miniworker.network.apply import Applier
from miniworker.network.checks import SandboxReport, check_sandbox, in_words
from miniworker.network.connections import connections_here
from miniworker.network.conntrack import forget_udp
from miniworker.network.delta import delta
from miniworker.network.errors import NetworkError, UnknownNetworkError
from miniworker.network.gateway import PortForward, choose_address
from miniworker.network.host import HostTable
from miniworker.network.host_ports import choose_ports, forwards_of, ports_of
from miniworker.network.leaving import LeavingLinks
from miniworker.network.model import EMPTY, Bridge, KernelState, Operation
from miniworker.network.names import gateway_port_name, port_name
from miniworker.network.namespaces import in_namespace, is_namespace, remove_namespace
from miniworker.network.observe import Observed, observe
from miniworker.network.plan import VXLAN_PORT, plan
from miniworker.network.ports import port_holder, port_is_free
from miniworker.network.sandbox_plan import (
    SandboxPlan,
    attachments_of,
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
    reconnect,
    remove_links,
    set_vips,
)
from miniworker.network.turns import Turns
from miniworker.network.vips import Vip, changed_services, vips_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_NS = 30 * SECOND
"""Between two looks at the kernel: each takes milliseconds while nobody has changed anything."""

_SYSTEM_CLOCK = SystemClock()
_NO_FABRIC = Fabric(node_id="", data_path_address=IPv4Address(0))


class KernelDataPlane:
    """A `DataPlane`. One per network namespace of the host; needs root."""

    def __init__(
        self, netns_dir: Path, *, vxlan_port: int = VXLAN_PORT, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._netns_dir = netns_dir
        self._clock = clock
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
        self._generations: dict[str, int] = {}
        """By task id, of rules that are as planned; not there: they have to be read."""
        self._repairs: Counter[str] = Counter()

    async def set_fabric(self, fabric: Fabric) -> None:
        await _to_the_end(self._set_fabric(fabric))

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        return await _to_the_end(self._attach(sandbox))

    async def reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        return await _to_the_end(self._reattach(sandbox))

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

    async def verify(self) -> tuple[Difference, ...]:
        return await _to_the_end(self._verify())

    async def repair(self) -> tuple[Difference, ...]:
        return await _to_the_end(self._repair())

    async def watch(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + CHECK_NS)
            try:
                await self.repair()
            except NetworkError as error:
                logger.warning(
                    "The network of this node could not be checked or repaired; trying again.",
                    extra=fields(error=error.message),
                )

    @property
    def repairs(self) -> Mapping[str, int]:
        return dict(self._repairs)

    # --- the fabric ---

    async def _set_fabric(self, fabric: Fabric) -> None:
        async with self._turns.alone():
            sandboxes = await self._known()
            subnet = await self._host.ensure()
            wanted = plan(fabric, vxlan_port=self._vxlan_port) | _local_neighbors(sandboxes, fabric)
            observed, self._applied = self._applied, None
            operations = await asyncio.to_thread(_converge, wanted, observed)
            settled, self._settled = self._settled, None
            self._fabric, self._host.networks = fabric, fabric.networks
            await self._host.publish()
            if settled is None:
                await self._settle(sandboxes, fabric, subnet)
            else:
                await self._follow(sandboxes, settled, fabric, _new_bridges(operations))
            self._applied, self._settled = wanted, fabric
        if operations:
            logger.debug("Fabric applied.", extra=fields(operations=len(operations)))

    async def _settle(
        self, sandboxes: Mapping[str, FoundSandbox], fabric: Fabric, subnet: IPv4Network
    ) -> None:
        """What the sandboxes hold is not known: look, and mend what differs."""
        plans = {
            task_id: plan_found(task_id, found.addresses, fabric, subnet=subnet)
            for task_id, found in sandboxes.items()
        }
        seen = await asyncio.to_thread(observe)

        async def settle(task_id: str) -> None:
            report = await self._check_sandbox(task_id, plans[task_id], seen, generation=None)
            if report.differences:
                await self._mend(task_id, plans[task_id])

        await _all(settle(task_id) for task_id in plans)

    async def _follow(
        self, sandboxes: Mapping[str, FoundSandbox], settled: Fabric, fabric: Fabric, bridges: set[str]
    ) -> None:
        """Give sandboxes what has changed since the fabric that they follow, and their place on new `bridges`."""
        old, new = changed_services(settled.services, fabric.services)

        async def follow(task_id: str, found: FoundSandbox) -> None:
            before = vips_of(attachments_of(found.addresses, settled.networks), old)
            after = vips_of(attachments_of(found.addresses, fabric.networks), new)
            interfaces = overlay_interfaces(task_id, found.addresses, fabric)
            lost = [item for item in interfaces if item.bridge in bridges]
            if lost:
                await asyncio.to_thread(reconnect, lost)
            if before != after:
                await self._set_vips(task_id, before, after)

        await _all(follow(task_id, found) for task_id, found in sandboxes.items())

    async def _set_vips(self, task_id: str, old: Iterable[Vip], new: Iterable[Vip]) -> None:
        known = self._generations.pop(task_id, None)
        before, after = await asyncio.to_thread(set_vips, self._path(task_id), old, new)
        if before == known and after == before + 1:  # nobody else has changed a rule meanwhile
            self._generations[task_id] = after

    # --- what the kernel really holds ---

    async def _verify(self) -> tuple[Difference, ...]:
        async with self._turns.alone():
            self._generations.clear()
            nodes, sandboxes, _ = await self._look()
            return tuple(sorted((*nodes, *(item for found in sandboxes.values() for item in found))))

    async def _repair(self) -> tuple[Difference, ...]:
        async with self._turns.alone():
            nodes, sandboxes, operations = await self._look()
            if not nodes and not sandboxes:
                return ()
            self._applied = None
            await self._host.mend()
            await asyncio.to_thread(_apply, operations)
            subnet = await self._host.ensure()
            await _all(
                self._mend(task_id, self._found_plan(task_id, subnet))
                for task_id in self._to_mend(sandboxes, _new_bridges(operations))
            )
        differences = (*nodes, *(item for found in sandboxes.values() for item in found))
        self._count(differences)
        return differences

    def _count(self, differences: Iterable[Difference]) -> None:
        by_kind: dict[str, list[Difference]] = {}
        for item in differences:
            by_kind.setdefault(item.kind, []).append(item)
        for kind, items in sorted(by_kind.items()):
            self._repairs[kind] += len(items)
            logger.warning(
                "The kernel's network was not as planned; repaired.",
                extra=fields(kind=kind, count=len(items), item=items[0].item, task_id=items[0].task_id),
            )

    def _to_mend(self, different: Iterable[str], bridges: set[str]) -> set[str]:
        """The sandboxes that differ, and those on `bridges`, which were made anew."""
        assert self._sandboxes is not None, "sandboxes are known"
        assert self._fabric is not None, "there is a fabric"
        on_new = {
            task_id
            for task_id, found in self._sandboxes.items()
            for item in overlay_interfaces(task_id, found.addresses, self._fabric)
            if item.bridge in bridges
        }
        return on_new.union(different)

    async def _look(
        self,
    ) -> tuple[tuple[Difference, ...], dict[str, tuple[Difference, ...]], tuple[Operation, ...]]:
        """The differences of the node itself, those of sandboxes that have some, and what would repair the former."""
        if self._fabric is None or self._settled is None:
            return (), {}, ()  # the agent is about to set it, or to try again
        subnet = await self._host.ensure()
        sandboxes = await self._known()
        wanted = plan(self._fabric, vxlan_port=self._vxlan_port) | _local_neighbors(sandboxes, self._fabric)
        seen = await asyncio.to_thread(observe)
        operations = delta(wanted, seen.state)
        nodes = (*map(in_words, operations), *await self._host.differences())
        different: dict[str, tuple[Difference, ...]] = {}

        async def look(task_id: str) -> None:
            report = await self._check_sandbox(
                task_id,
                self._found_plan(task_id, subnet),
                seen,
                generation=self._generations.get(task_id),
            )
            if report.differences:
                different[task_id] = report.differences

        await _all(look(task_id) for task_id in tuple(sandboxes))
        return nodes, different, operations

    async def _check_sandbox(
        self, task_id: str, wanted: SandboxPlan, seen: Observed, *, generation: int | None
    ) -> SandboxReport:
        report = await asyncio.to_thread(
            check_sandbox, self._path(task_id), wanted, seen, generation=generation
        )
        if any(item.kind == "rules" for item in report.differences):
            self._generations.pop(task_id, None)
        else:
            self._generations[task_id] = report.generation
        return report

    async def _mend(self, task_id: str, wanted: SandboxPlan) -> None:
        self._generations.pop(task_id, None)
        self._generations[task_id] = await asyncio.to_thread(mend, self._path(task_id), wanted)

    def _found_plan(self, task_id: str, subnet: IPv4Network) -> SandboxPlan:
        assert self._sandboxes is not None, "sandboxes are known"
        assert self._fabric is not None, "there is a fabric"
        return plan_found(task_id, self._sandboxes[task_id].addresses, self._fabric, subnet=subnet)

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
                made = await asyncio.to_thread(make_sandbox, self._path(sandbox.task_id), wanted)
                await self._host.publish()
            except BaseException:
                await self._remove(sandbox.task_id)
                raise
            self._generations[sandbox.task_id] = made
            if self._applied is not None:
                self._applied |= {item.neighbor for item in wanted.interfaces if item.overlay}
            return self._attached(sandbox, wanted, ports)

    async def _reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        async with self._turns.of(sandbox.task_id):
            sandboxes = await self._known()
            subnet = await self._host.ensure()
            found = sandboxes.get(sandbox.task_id)
            if found is None or _overlay_addresses(found, subnet) == {
                item.address for item in sandbox.attachments
            }:
                return None
            if self._fabric is None:
                raise UnknownNetworkError("the networks of this node are not known yet")
            async with self._reserving:
                local_address = found.local_address(subnet)
                if not leads_out(sandbox, self._fabric):
                    local_address = None
                elif local_address is None:
                    local_address = self._free_address(sandboxes, subnet)
                wanted = reattached(
                    sandbox, found.addresses, self._fabric, subnet=subnet, local_address=local_address
                )
                sandboxes[sandbox.task_id] = FoundSandbox(wanted)
            planned = self._found_plan(sandbox.task_id, subnet)
            try:
                gone = found.addresses - wanted
                await self._leaving.remove([_port(sandbox.task_id, item, subnet) for item in gone])
                await self._mend(sandbox.task_id, planned)
            except BaseException:
                sandboxes[sandbox.task_id] = found
                raise
            if self._applied is not None:
                self._applied |= {item.neighbor for item in planned.interfaces if item.overlay}
            return self._attached(sandbox, planned, sandbox.host_ports)

    def _same(self, sandbox: Sandbox, found: FoundSandbox, subnet: IPv4Network) -> AttachedSandbox | None:
        """The answer for a sandbox that is there already, None when it is not what is asked for."""
        wanted = self._plan(sandbox, subnet, found.local_address(subnet))
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
            local_address = None
            if leads_out(sandbox, self._fabric or _NO_FABRIC):
                local_address = self._free_address(sandboxes, subnet)
            wanted = self._plan(sandbox, subnet, local_address)
            ports: tuple[HostPort, ...] = ()
            if sandbox.host_ports:
                ports = await asyncio.to_thread(
                    _choose_ports, sandbox, _holders(sandboxes, self._host.forwards)
                )
            sandboxes[sandbox.task_id] = FoundSandbox(wanted.addresses)
            if wanted.source is not None:
                self._host.forwards |= forwards_of(ports, wanted.source)
        return wanted, ports

    def _free_address(self, sandboxes: Mapping[str, FoundSandbox], subnet: IPv4Network) -> IPv4Address:
        """One on the local bridge; whoever asks holds the lock of reserving."""
        used = (item.local_address(subnet) for item in sandboxes.values())
        return choose_address(subnet, frozenset(item for item in used if item))

    def _plan(self, sandbox: Sandbox, subnet: IPv4Network, address: IPv4Address | None) -> SandboxPlan:
        return plan_sandbox(sandbox, self._fabric or _NO_FABRIC, subnet=subnet, local_address=address)

    def _attached(
        self, sandbox: Sandbox, wanted: SandboxPlan, ports: tuple[HostPort, ...]
    ) -> AttachedSandbox:
        return AttachedSandbox(
            netns=self._path(sandbox.task_id),
            host_ports=ports,
            hosts_address=wanted.hosts_address,
            nameserver=wanted.nameserver,
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
            self._generations.clear()

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
        self._generations.pop(task_id, None)

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
    operations = delta(wanted, observe().state if observed is None else observed)
    _apply(operations)
    return operations


def _apply(operations: Iterable[Operation]) -> None:
    with IPRoute() as netlink:
        Applier(netlink).apply(operations)


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


# --- values ---


def _overlay_addresses(found: FoundSandbox, subnet: IPv4Network) -> set[IPv4Address]:
    return {address for _, address in found.addresses if address not in subnet}


def _port(task_id: str, interface: tuple[str, IPv4Address], subnet: IPv4Network) -> str:
    """The host's end of a sandbox' interface."""
    name, address = interface
    if address in subnet:
        return gateway_port_name(task_id)
    return port_name(task_id, int(name.removeprefix("eth")))


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
