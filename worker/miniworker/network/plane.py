"""The data plane on the kernel of this machine.

All state is the kernel's. What this class remembers it can read back: the fabric comes again from the agent, sandboxes
from their namespaces, host ports from the nftables table. Its memory belongs to the event loop, its work in the kernel
is done in threads: that on different tasks side by side, that on the fabric while nothing else is done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from minicommon.clock import SECOND, Clock, SystemClock
from minicommon.log import fields
from minicommon.supervise import Supervisor
from pyroute2 import IPRoute

from miniworker.network.api import (
    Announced,
    AttachedSandbox,
    Connections,
    Difference,
    Fabric,
    Hop,
    Packet,
    Sandbox,
    Traced,
)
from miniworker.network.apply import Applier
from miniworker.network.connections import connections_here
from miniworker.network.delta import delta
from miniworker.network.errors import CannotEncryptError, NetworkError, UnknownNetworkError
from miniworker.network.host import HostTable
from miniworker.network.inspector import Findings, Inspector
from miniworker.network.keeper import SandboxKeeper, local_neighbors
from miniworker.network.model import EMPTY, Bridge, KernelState, Operation
from miniworker.network.namespaces import in_namespace, is_namespace
from miniworker.network.observe import observe
from miniworker.network.plan import VXLAN_PORT, plan
from miniworker.network.sandbox_plan import attachments_of, overlay_interfaces
from miniworker.network.sandboxes import FoundSandbox, reconnect, set_vips
from miniworker.network.tracer import reach, trace
from miniworker.network.turns import Turns
from miniworker.network.vips import Vip, changed_services, vips_of
from miniworker.network.wireguard.encryption import CANNOT, Encryption
from miniworker.network.works import all_of, to_the_end

logger = logging.getLogger(__name__)

CHECK_NS = 30 * SECOND
"""Between two looks at the kernel: each takes milliseconds while nobody has changed anything."""

_SYSTEM_CLOCK = SystemClock()
_NO_FABRIC = Fabric(node_id="", data_path_address=IPv4Address(0))


class KernelDataPlane:
    """A `DataPlane`. One per network namespace of the host; needs root."""

    def __init__(
        self,
        netns_dir: Path,
        encryption: Encryption,
        *,
        vxlan_port: int = VXLAN_PORT,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self._encryption = encryption
        self._clock = clock
        self._vxlan_port = vxlan_port
        self._turns = Turns()
        self._host = HostTable(clock=clock, vxlan_port=vxlan_port)
        self._keeper = SandboxKeeper(netns_dir, self._host)
        self._inspector = Inspector(self._keeper, self._host, encryption)
        self._fabric: Fabric | None = None
        self._settled: Fabric | None = None
        """The fabric that every sandbox follows; None: not known."""
        self._applied: KernelState | None = None
        """None: not known, so the kernel is read first."""
        self._refused: frozenset[str] = frozenset()
        """Networks that this node cannot have."""

    async def set_fabric(self, fabric: Fabric) -> None:
        await to_the_end(self._set_fabric(fabric))

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        return await to_the_end(self._attach(sandbox))

    async def reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        return await to_the_end(self._reattach(sandbox))

    async def open_socket(self, task_id: str) -> socket.socket:
        return await asyncio.to_thread(in_namespace, self._keeper.path(task_id), _tcp_socket)

    async def connections(self, task_id: str) -> Connections:
        path = self._keeper.path(task_id)
        if not is_namespace(path):
            return Connections()
        return await asyncio.to_thread(in_namespace, path, connections_here)

    async def detach(self, task_id: str) -> None:
        await to_the_end(self._detach(task_id))

    async def adopt(self, task_ids: frozenset[str]) -> None:
        await to_the_end(self._adopt(task_ids))

    async def clear(self) -> None:
        await to_the_end(self._clear())

    async def verify(self) -> tuple[Difference, ...]:
        return await to_the_end(self._verify())

    async def repair(self) -> tuple[Difference, ...]:
        return await to_the_end(self._repair())

    async def watch(self) -> None:
        async with Supervisor() as group:
            group.start_eternal("kernel check", self._check_for_ever())
            group.start_eternal("encryption", self._encryption.watch())

    async def _check_for_ever(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + CHECK_NS)
            try:
                await self.repair()
            except NetworkError as error:
                logger.warning(
                    "The network of this node could not be checked or repaired; trying again.",
                    extra=fields(error=error.message),
                )

    async def trace(self, packet: Packet) -> Traced:
        fabric, sandboxes = self._fabric or _NO_FABRIC, await self._keeper.known()
        return await asyncio.to_thread(trace, packet, fabric, dict(sandboxes), dropping=self._host.dropping)

    async def reach(self, address: IPv4Address) -> Hop:
        fabric, sandboxes = self._fabric or _NO_FABRIC, await self._keeper.known()
        observed = await asyncio.to_thread(observe)
        return reach(address, observed, fabric, dict(sandboxes))

    async def keys(self) -> Announced:
        return await self._encryption.announced()

    async def rotate_keys(self) -> Announced:
        return await self._encryption.rotate()

    async def keys_due_at_ns(self, period_ns: int) -> int:
        return await self._encryption.due_at_ns(period_ns)

    async def wait_encryption(self, *, wanted: bool) -> None:
        await self._encryption.wait_program(wanted=wanted)

    @property
    def repairs(self) -> Mapping[str, int]:
        return dict(self._inspector.repairs)

    # --- the fabric ---

    async def _set_fabric(self, fabric: Fabric) -> None:
        async with self._turns.alone():
            fabric = await self._usable(fabric)
            sandboxes = await self._keeper.known()
            await self._host.ensure()
            wanted = await self._wanted(fabric)
            observed, self._applied = self._applied, None
            operations = await asyncio.to_thread(_converge, wanted, observed)
            settled, self._settled = self._settled, None
            self._fabric, self._host.networks = fabric, fabric.networks
            await self._host.publish()
            if settled is None:
                await self._inspector.settle(fabric)
            else:
                await self._follow(sandboxes, settled, fabric, _new_bridges(operations))
            self._applied, self._settled = wanted, fabric
            await self._encryption.follow(fabric)
        if operations:
            logger.debug("Fabric applied.", extra=fields(operations=len(operations)))

    async def _usable(self, fabric: Fabric) -> Fabric:
        """The fabric as far as this node can have it: without encrypted networks where nobody encrypts."""
        self._refused = frozenset()
        if not any(network.encrypted for network in fabric.networks) or await self._encryption.open():
            return fabric
        self._refused = frozenset(network.id for network in fabric.networks if network.encrypted)
        return replace(fabric, networks=tuple(item for item in fabric.networks if not item.encrypted))

    async def _wanted(self, fabric: Fabric) -> KernelState:
        """The node's own links and entries."""
        engine = await self._encryption.open()
        planned = plan(fabric, vxlan_port=self._vxlan_port, carrier=engine.kind if engine else "")
        return planned | local_neighbors(await self._keeper.known(), fabric)

    async def _follow(
        self, sandboxes: Mapping[str, FoundSandbox], settled: Fabric, fabric: Fabric, bridges: set[str]
    ) -> None:
        """Give sandboxes what has changed since the fabric that they follow, and their place on new `bridges`."""
        old, new = changed_services(settled.services, fabric.services)

        async def follow(task_id: str, found: FoundSandbox) -> None:
            had = attachments_of(found.addresses, settled.networks)
            has = attachments_of(found.addresses, fabric.networks)
            if has and not had:  # without networks it may have no rules that could be changed
                await self._inspector.mend((task_id,), fabric)
                return
            before, after = vips_of(had, old), vips_of(has, new)
            interfaces = overlay_interfaces(task_id, found.addresses, fabric)
            lost = [item for item in interfaces if item.bridge in bridges]
            if lost:
                await asyncio.to_thread(reconnect, lost)
            if before != after:
                await self._set_vips(task_id, before, after)

        await all_of(follow(task_id, found) for task_id, found in sandboxes.items())

    async def _set_vips(self, task_id: str, old: Iterable[Vip], new: Iterable[Vip]) -> None:
        generations = self._keeper.generations
        known = generations.pop(task_id, None)
        before, after = await asyncio.to_thread(set_vips, self._keeper.path(task_id), old, new)
        if before == known and after == before + 1:  # nobody else has changed a rule meanwhile
            generations[task_id] = after

    # --- what the kernel really holds ---

    async def _verify(self) -> tuple[Difference, ...]:
        async with self._turns.alone():
            self._keeper.generations.clear()
            return (await self._look()).differences

    async def _repair(self) -> tuple[Difference, ...]:
        async with self._turns.alone():
            findings = await self._look()
            if not findings.differences or self._fabric is None:
                return ()
            self._applied = None
            await self._host.mend()
            await asyncio.to_thread(_apply, findings.operations)
            await self._encryption.mend()
            renewed = await self._inspector.on_bridges(_new_bridges(findings.operations), self._fabric)
            await self._inspector.mend(findings.task_ids | renewed, self._fabric)
        self._inspector.count(findings.differences)
        return findings.differences

    async def _look(self) -> Findings:
        if self._fabric is None or self._settled is None:
            return Findings()  # the agent is about to set it, or to try again
        return await self._inspector.look(self._fabric, await self._wanted(self._fabric))

    # --- sandboxes ---

    async def _attach(self, sandbox: Sandbox) -> AttachedSandbox:
        async with self._turns.of(sandbox.task_id):
            if any(item.network_id in self._refused for item in sandbox.attachments):
                raise CannotEncryptError(CANNOT)
            attached, entries = await self._keeper.attach(sandbox, self._fabric or _NO_FABRIC)
            if self._applied is not None:
                self._applied |= entries
            return attached

    async def _reattach(self, sandbox: Sandbox) -> AttachedSandbox | None:
        async with self._turns.of(sandbox.task_id):
            if self._fabric is None:
                raise UnknownNetworkError("the networks of this node are not known yet")
            if any(item.network_id in self._refused for item in sandbox.attachments):
                raise CannotEncryptError(CANNOT)
            changed = await self._keeper.reattach(sandbox, self._fabric)
            if changed is None:
                return None
            attached, entries = changed
            if self._applied is not None:
                self._applied |= entries
            return attached

    async def _detach(self, task_id: str) -> None:
        async with self._turns.of(task_id):
            await self._keeper.remove(task_id)

    async def _adopt(self, task_ids: frozenset[str]) -> None:
        async with self._turns.alone():
            await self._keeper.keep(task_ids)

    async def _clear(self) -> None:
        async with self._turns.alone():
            await self._keeper.clear()
            await asyncio.to_thread(_converge, EMPTY, None)
            await self._host.clear()
            self._fabric, self._settled, self._applied = None, None, None
            self._encryption.forget()
            self._keeper.forget()


# --- in threads ---


def _converge(wanted: KernelState, observed: KernelState | None) -> tuple[Operation, ...]:
    """Lead the kernel to `wanted`; what was to be done. `observed` None: look first."""
    operations = delta(wanted, observe().state if observed is None else observed)
    _apply(operations)
    return operations


def _apply(operations: Iterable[Operation]) -> None:
    with IPRoute() as netlink:
        Applier(netlink).apply(operations)


def _tcp_socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    return opened


# --- values ---


def _new_bridges(operations: Iterable[Operation]) -> set[str]:
    return {item.item.name for item in operations if item.add and isinstance(item.item, Bridge)}
