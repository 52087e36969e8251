"""The local bridge in the kernel."""

from __future__ import annotations

from ipaddress import IPv4Network

from pyroute2 import IPRoute, NetlinkError

from miniworker.network.apply import disable_ipv6, index_of, set_local_bridge
from miniworker.network.errors import NetworkError
from miniworker.network.gateway import choose_subnet, gateway_of
from miniworker.network.names import GATEWAY_BRIDGE, mac_of
from miniworker.network.observe import addresses_of, used_subnets


def gateway_subnet(netlink: IPRoute) -> IPv4Network | None:
    """The subnet that was chosen; None while there is no bridge with an address."""
    for address, prefix in addresses_of(netlink, GATEWAY_BRIDGE):
        return IPv4Network(f"{address}/{prefix}", strict=False)
    return None


def ensure_gateway(netlink: IPRoute, chosen: IPv4Network | None = None) -> IPv4Network:
    """Make the bridge unless it is there; its subnet, which is `chosen` if that is given. Raises NetworkError."""
    try:
        subnet = gateway_subnet(netlink)
        if subnet is None:
            subnet = chosen or choose_subnet(used_subnets(netlink, apart_from=GATEWAY_BRIDGE))
            _make(netlink, subnet)
        set_local_bridge(GATEWAY_BRIDGE)
        return subnet
    except NetlinkError as error:
        raise NetworkError(f"cannot make {GATEWAY_BRIDGE}: {error.args[1]}") from error


def remove_gateway(netlink: IPRoute) -> None:
    for index in netlink.link_lookup(ifname=GATEWAY_BRIDGE):
        netlink.link("del", index=index)


def _make(netlink: IPRoute, subnet: IPv4Network) -> None:
    gateway = gateway_of(subnet)
    if not netlink.link_lookup(ifname=GATEWAY_BRIDGE):
        netlink.link("add", ifname=GATEWAY_BRIDGE, kind="bridge", address=mac_of(gateway))
    disable_ipv6(GATEWAY_BRIDGE)
    index = index_of(GATEWAY_BRIDGE)
    netlink.link("set", index=index, state="up")
    netlink.addr("add", index=index, address=str(gateway), prefixlen=subnet.prefixlen)
