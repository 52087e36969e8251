"""What all sandboxes share in the host's namespace: the local bridge, forwarding, and our nftables table."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network

from pyroute2 import IPRoute

from miniworker.network import nft
from miniworker.network.api import OverlayNetwork
from miniworker.network.gateway import PortForward, host_rules, read_forwards
from miniworker.network.gateway_bridge import ensure_gateway, gateway_subnet, remove_gateway
from miniworker.network.names import INGRESS_TABLE, TABLE, bridge_name
from miniworker.network.namespaces import write_sysctl


class HostTable:
    """Set `forwards` and `networks`, then `publish`."""

    def __init__(self) -> None:
        self.forwards: frozenset[PortForward] = frozenset()
        self.networks: tuple[OverlayNetwork, ...] = ()
        self._subnet: IPv4Network | None = None
        self._rules = ""
        self._writing = asyncio.Lock()

    async def read(self) -> IPv4Network | None:
        """Take over the host ports that the kernel knows; the subnet of the local bridge, if there is one."""
        self.forwards, subnet = await asyncio.to_thread(_read)
        return subnet

    async def ensure(self) -> IPv4Network:
        """Make the local bridge and turn forwarding on, the first time; the bridge's subnet."""
        async with self._writing:
            if self._subnet is None:
                self._subnet = await asyncio.to_thread(_ensure)
        await self.publish()
        return self._subnet

    async def publish(self) -> None:
        """Make the table equal to what was set.

        A change costs some 15 ms, so those that come while one is being written go together.
        """
        async with self._writing:
            if self._subnet is None:
                return
            rules = host_rules(
                (self._subnet, *(network.subnet for network in self.networks if network.ingress)),
                [bridge_name(network.id) for network in self.networks],
                self.forwards,
            )
            if rules != self._rules:
                await asyncio.to_thread(nft.run_script, rules)
                self._rules = rules

    async def clear(self) -> None:
        """Remove the bridge and the tables."""
        async with self._writing:
            await asyncio.to_thread(_clear)
            self.forwards, self.networks = frozenset(), ()
            self._subnet, self._rules = None, ""


def _read() -> tuple[frozenset[PortForward], IPv4Network | None]:
    with IPRoute() as netlink:
        return read_forwards(nft.list_table("ip", TABLE)), gateway_subnet(netlink)


def _ensure() -> IPv4Network:
    write_sysctl("ipv4/ip_forward", "1")
    with IPRoute() as netlink:
        return ensure_gateway(netlink)


def _clear() -> None:
    with IPRoute() as netlink:
        remove_gateway(netlink)
    nft.delete_table("ip", TABLE)
    nft.delete_table("inet", INGRESS_TABLE)
