"""The data plane on the kernel of this machine.

All state is the kernel's. What this class remembers it can read back: the fabric comes again from the agent, sandboxes
from their namespaces, host ports from the nftables table. Its work is done in threads, one call at a time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from minicommon.log import fields
from pyroute2 import IPRoute

from miniworker.network import nft
from miniworker.network.api import AttachedSandbox, Fabric, Sandbox
from miniworker.network.apply import Applier
from miniworker.network.conntrack import forget_udp
from miniworker.network.delta import delta, device_name
from miniworker.network.errors import NetworkError
from miniworker.network.gateway import PortForward, choose_address, host_rules, read_forwards
from miniworker.network.gateway_bridge import ensure_gateway, gateway_subnet, remove_gateway
from miniworker.network.host_ports import choose_ports, forwards_of, ports_of
from miniworker.network.model import EMPTY, Bridge, KernelState, Operation
from miniworker.network.names import INGRESS_TABLE, TABLE, bridge_name
from miniworker.network.namespaces import in_namespace, write_sysctl
from miniworker.network.observe import observe
from miniworker.network.plan import VXLAN_PORT, plan, return_paths
from miniworker.network.ports import port_holder, port_is_free
from miniworker.network.sandbox_plan import SandboxPlan, on_ingress, overlay_interfaces, plan_sandbox
from miniworker.network.sandboxes import (
    FoundSandbox,
    find_sandbox,
    make_sandbox,
    reconnect,
    remove_sandbox,
    set_returns,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


class KernelDataPlane:
    """A `DataPlane`. One per network namespace of the host; needs root."""

    def __init__(self, netns_dir: Path, *, vxlan_port: int = VXLAN_PORT) -> None:
        self._netns_dir = netns_dir
        self._vxlan_port = vxlan_port
        self._lock = asyncio.Lock()
        self._fabric: Fabric | None = None
        self._applied: KernelState | None = None
        """None: not known, so the kernel is read first."""
        self._sandboxes: dict[str, FoundSandbox] | None = None
        """By task id. None: not known yet."""
        self._forwards: frozenset[PortForward] = frozenset()
        self._rules = ""
        self._subnet: IPv4Network | None = None

    async def set_fabric(self, fabric: Fabric) -> None:
        await self._in_thread(lambda netlink: self._set_fabric(netlink, fabric))

    async def attach(self, sandbox: Sandbox) -> AttachedSandbox:
        return await self._in_thread(lambda netlink: self._attach(netlink, sandbox))

    async def open_socket(self, task_id: str) -> socket.socket:
        return await asyncio.to_thread(in_namespace, self._path(task_id), _tcp_socket)

    async def detach(self, task_id: str) -> None:
        await self._in_thread(lambda netlink: self._detach(netlink, task_id))

    async def adopt(self, task_ids: frozenset[str]) -> None:
        await self._in_thread(lambda netlink: self._adopt(netlink, task_ids))

    async def clear(self) -> None:
        await self._in_thread(self._clear)

    async def _in_thread(self, work: Callable[[IPRoute], T]) -> T:
        """One call at a time: each decides by what the one before left in the kernel."""

        def with_netlink() -> T:
            with IPRoute() as netlink:
                return work(netlink)

        async with self._lock:
            # A cancelled caller must not let the next one in while the thread still works.
            work_done = asyncio.ensure_future(asyncio.to_thread(with_netlink))
            try:
                return await asyncio.shield(work_done)
            except asyncio.CancelledError:
                await asyncio.wait({work_done})
                raise

    # --- in the thread ---

    def _set_fabric(self, netlink: IPRoute, fabric: Fabric) -> None:
        sandboxes = self._known(netlink)
        self._ensure_host(netlink)
        wanted = plan(fabric, vxlan_port=self._vxlan_port) | _local_neighbors(sandboxes, fabric)
        observed = self._applied if self._applied is not None else observe(netlink)
        self._applied = None
        operations = delta(wanted, observed)
        Applier(netlink).apply(operations)
        new_bridges = {
            device_name(item.item) for item in operations if item.add and isinstance(item.item, Bridge)
        }
        before, self._fabric = self._fabric, fabric
        self._write_rules()
        if before is None or return_paths(before) != return_paths(fabric) or new_bridges:
            for task_id, found in sandboxes.items():
                self._follow(netlink, task_id, found, new_bridges)
        self._applied = wanted
        if operations:
            logger.debug("Fabric applied.", extra=fields(operations=len(operations)))

    def _follow(self, netlink: IPRoute, task_id: str, found: FoundSandbox, new_bridges: set[str]) -> None:
        """Give a sandbox that exists the new return paths, and its place on bridges that were made anew."""
        assert self._fabric is not None, "set by the caller"
        attached = overlay_interfaces(task_id, found.addresses, self._fabric)
        if on_ingress(found.addresses, self._fabric):
            set_returns(self._path(task_id), return_paths(self._fabric))
        for interface in attached:
            if interface.bridge in new_bridges:
                reconnect(netlink, interface)

    def _attach(self, netlink: IPRoute, sandbox: Sandbox) -> AttachedSandbox:
        sandboxes = self._known(netlink)
        subnet = self._ensure_host(netlink)
        if found := sandboxes.get(sandbox.task_id):
            local_address = found.local_address
            assert local_address is not None, "only complete sandboxes are kept"
            wanted = self._plan_sandbox(sandbox, subnet, local_address)
            if wanted.addresses == found.addresses:
                return self._attached(sandbox, wanted)
            self._detach(netlink, sandbox.task_id)
        taken = frozenset(item.local_address for item in sandboxes.values() if item.local_address)
        local_address = choose_address(subnet, taken)
        wanted = self._plan_sandbox(sandbox, subnet, local_address)
        ports = choose_ports(sandbox.host_ports, self._holders(), is_free=port_is_free, holder=port_holder)
        make_sandbox(netlink, self._path(sandbox.task_id), wanted)
        sandboxes[sandbox.task_id] = FoundSandbox(wanted.addresses, wanted.gateway)
        try:
            self._add_neighbors(netlink, wanted)
            self._forwards |= forwards_of(ports, wanted.source)
            self._write_rules()
        except NetworkError:
            self._detach(netlink, sandbox.task_id)
            raise
        return self._attached(sandbox, wanted)

    def _add_neighbors(self, netlink: IPRoute, sandbox: SandboxPlan) -> None:
        """Reach the task from now on, not only when the fabric that names it has come."""
        items = {interface.neighbor for interface in sandbox.interfaces if interface.overlay}
        Applier(netlink).apply(Operation(True, item) for item in items)
        if self._applied is not None:
            self._applied |= items

    def _plan_sandbox(self, sandbox: Sandbox, subnet: IPv4Network, address: IPv4Address) -> SandboxPlan:
        fabric = self._fabric or Fabric(node_id="", data_path_address=IPv4Address(0))
        return plan_sandbox(sandbox, fabric, subnet=subnet, local_address=address)

    def _attached(self, sandbox: Sandbox, wanted: SandboxPlan) -> AttachedSandbox:
        return AttachedSandbox(
            netns=self._path(sandbox.task_id),
            host_ports=ports_of(sandbox, self._forwards, wanted.source),
            hosts_address=wanted.interfaces[0].address,
        )

    def _detach(self, netlink: IPRoute, task_id: str) -> None:
        sandboxes = self._known(netlink)
        if found := sandboxes.pop(task_id, None):
            gone = {item for item in self._forwards if found.has(item.address)}
            self._forwards -= gone
            self._write_rules()
            for item in gone:
                if item.protocol == "udp":
                    forget_udp(item.published_port, [item.address])
        remove_sandbox(netlink, self._path(task_id))

    def _adopt(self, netlink: IPRoute, task_ids: frozenset[str]) -> None:
        for task_id in self._known(netlink).keys() - task_ids:
            logger.info("Removing a sandbox without a task.", extra=fields(task_id=task_id))
            self._detach(netlink, task_id)

    def _clear(self, netlink: IPRoute) -> None:
        for task_id in tuple(self._known(netlink)):
            self._detach(netlink, task_id)
        Applier(netlink).apply(delta(EMPTY, observe(netlink)))
        remove_gateway(netlink)
        nft.delete_table("ip", TABLE)
        nft.delete_table("inet", INGRESS_TABLE)
        self._fabric, self._applied, self._sandboxes = None, None, None
        self._forwards, self._rules, self._subnet = frozenset(), "", None

    def _known(self, netlink: IPRoute) -> dict[str, FoundSandbox]:
        """The sandboxes, read from the kernel the first time; one whose making was interrupted is removed."""
        if self._sandboxes is not None:
            return self._sandboxes
        sandboxes: dict[str, FoundSandbox] = {}
        subnet = gateway_subnet(netlink)
        paths = sorted(self._netns_dir.iterdir()) if self._netns_dir.is_dir() else []
        for path in paths:
            found = find_sandbox(path)
            if found and found.gateway and found.local_address and subnet:
                sandboxes[path.name] = found
            else:
                remove_sandbox(netlink, path)
        living = {address for item in sandboxes.values() for _, address in item.addresses}
        forwards = read_forwards(nft.list_table("ip", TABLE))
        self._forwards = frozenset(item for item in forwards if item.address in living)
        self._sandboxes = sandboxes
        return sandboxes

    def _ensure_host(self, netlink: IPRoute) -> IPv4Network:
        """The local bridge and forwarding; its subnet."""
        if self._subnet is None:
            write_sysctl("ipv4/ip_forward", "1")
            self._subnet = ensure_gateway(netlink)
            self._write_rules()
        return self._subnet

    def _write_rules(self) -> None:
        if self._subnet is None:
            return
        networks = self._fabric.networks if self._fabric else ()
        rules = host_rules(
            (self._subnet, *(network.subnet for network in networks if network.ingress)),
            [bridge_name(network.id) for network in networks],
            self._forwards,
        )
        if rules != self._rules:
            nft.run_script(rules)
            self._rules = rules

    def _holders(self) -> dict[tuple[str, int], str]:
        tasks = {
            address: task_id
            for task_id, found in (self._sandboxes or {}).items()
            for _, address in found.addresses
        }
        return {item.key: f"task {tasks.get(item.address, 'unknown')}" for item in self._forwards}

    def _path(self, task_id: str) -> Path:
        return self._netns_dir / task_id


def _local_neighbors(sandboxes: Mapping[str, FoundSandbox], fabric: Fabric) -> KernelState:
    """Entries for the tasks here that the fabric does not name yet, or no more."""
    return frozenset(
        interface.neighbor
        for task_id, found in sandboxes.items()
        for interface in overlay_interfaces(task_id, found.addresses, fabric)
    )


def _tcp_socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    return opened
