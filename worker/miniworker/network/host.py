"""What all sandboxes share in the host's namespace: the local bridge, forwarding, and our nftables table."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network
from typing import Any

from minicommon.clock import Clock
from pyroute2 import IPRoute

from miniworker.network import nft
from miniworker.network.api import Difference, OverlayNetwork
from miniworker.network.firewall_watch import FirewallWatch, others_translate
from miniworker.network.gateway import (
    PortForward,
    host_rules,
    read_forwarding_was_off,
    read_forwards,
)
from miniworker.network.gateway_bridge import ensure_gateway, gateway_subnet, remove_gateway
from miniworker.network.names import GATEWAY_BRIDGE, INGRESS_TABLE, TABLE
from miniworker.network.namespaces import read_sysctl, write_sysctl
from miniworker.network.plan import VXLAN_PORT
from miniworker.network.rules import different_rules, expected_of_script, read_tables

_FORWARDING = "ipv4/ip_forward"

_TABLES = (("ip", TABLE), ("bridge", TABLE))


class HostTable:
    """Set `forwards` and `networks`, then `publish`."""

    def __init__(self, *, clock: Clock, vxlan_port: int = VXLAN_PORT) -> None:
        self._vxlan_port = vxlan_port
        self._firewalls = FirewallWatch(clock=clock)
        self.forwards: frozenset[PortForward] = frozenset()
        self.networks: tuple[OverlayNetwork, ...] = ()
        self._subnet: IPv4Network | None = None
        self._rules = ""
        self._forwarding_was_off = False
        self._writing = asyncio.Lock()

    @property
    def dropping(self) -> tuple[str, ...]:
        """Chains of other firewalls that drop what is forwarded to tasks, each as "ip filter FORWARD"."""
        return self._firewalls.dropping

    async def read(self) -> IPv4Network | None:
        """Take over the host ports that the kernel knows; the subnet of the local bridge, if there is one."""
        objects, subnet = await asyncio.to_thread(_read)
        self.forwards = read_forwards(objects)
        self._forwarding_was_off = read_forwarding_was_off(objects)
        return subnet

    async def ensure(self) -> IPv4Network:
        """Make the local bridge and turn forwarding on, the first time; the bridge's subnet."""
        async with self._writing:
            if self._subnet is None:
                subnet = await asyncio.to_thread(_ensure_gateway)
                if await asyncio.to_thread(read_sysctl, _FORWARDING) == "0":
                    self._forwarding_was_off = True
                await self._write(subnet)
                # After the table: it remembers what was, however soon we end.
                await asyncio.to_thread(write_sysctl, _FORWARDING, "1")
                await self._firewalls.start()
                self._subnet = subnet
            return self._subnet

    async def publish(self) -> None:
        """Make the table equal to what was set.

        A change costs some 15 ms, so those that come while one is being written go together.
        """
        async with self._writing:
            if self._subnet is not None:
                await self._write(self._subnet)

    async def _write(self, subnet: IPv4Network) -> None:
        rules = host_rules(
            subnet,
            self.networks,
            self.forwards,
            forwarding_was_off=self._forwarding_was_off,
            vxlan_port=self._vxlan_port,
        )
        if rules != self._rules:
            await asyncio.to_thread(nft.run_script, rules)
            self._rules = rules

    async def differences(self) -> tuple[Difference, ...]:
        """How the kernel differs from what was written last; nothing before that."""
        async with self._writing:
            return await asyncio.to_thread(_differences, self._rules) if self._rules else ()

    async def mend(self) -> None:
        """Make the kernel equal to what was written last."""
        async with self._writing:
            if self._rules:
                await asyncio.to_thread(_ensure_gateway, self._subnet)
                await asyncio.to_thread(nft.run_script, self._rules)
                await asyncio.to_thread(write_sysctl, _FORWARDING, "1")

    async def clear(self) -> None:
        """Remove the bridge and the tables, and turn forwarding off if we turned it on and nobody else translates.

        Somebody who came after us, Docker for one, found it on and relies on it.
        """
        async with self._writing:
            await self._firewalls.stop()
            if self._forwarding_was_off and not await others_translate():
                await asyncio.to_thread(write_sysctl, _FORWARDING, "0")
            await asyncio.to_thread(_clear)
            self.forwards, self.networks = frozenset(), ()
            self._subnet, self._rules, self._forwarding_was_off = None, "", False


def _read() -> tuple[list[dict[str, Any]], IPv4Network | None]:
    with IPRoute() as netlink:
        return nft.list_table("ip", TABLE), gateway_subnet(netlink)


def _ensure_gateway(chosen: IPv4Network | None = None) -> IPv4Network:
    with IPRoute() as netlink:
        return ensure_gateway(netlink, chosen)


def _differences(rules: str) -> tuple[Difference, ...]:
    found: list[Difference] = []
    if read_sysctl(_FORWARDING) != "1":
        found.append(Difference("forwarding", "", "net.ipv4.ip_forward = 1", missing=True))
    with IPRoute() as netlink:
        if gateway_subnet(netlink) is None:
            found.append(Difference("bridge", "", GATEWAY_BRIDGE, missing=True))
    return (*found, *different_rules(expected_of_script(rules, _TABLES), read_tables(_TABLES), task_id=""))


def _clear() -> None:
    with IPRoute() as netlink:
        remove_gateway(netlink)
    nft.delete_table("ip", TABLE)
    nft.delete_table("bridge", TABLE)
    nft.delete_table("inet", INGRESS_TABLE)
