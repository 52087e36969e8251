"""Names and hardware addresses, all derived: what a process finds in the kernel after a restart it can recognize.

Interface names hold at most 15 characters; ids are random, so their first eight are enough to tell a node's apart.
"""

from __future__ import annotations

from ipaddress import IPv4Address

BRIDGE_PREFIX = "mbr-"
VXLAN_PREFIX = "mvx-"
PORT_PREFIX = "mve-"
GATEWAY_PORT_PREFIX = "mgw-"

CARRIER = "mini-wg"
"""The WireGuard interface that the tunnels of encrypted networks go through."""

GATEWAY_BRIDGE = "mini_gwbridge"
"""The local bridge that leads out of the node: docker_gwbridge's twin."""

TABLE = "mini"
"""Our nftables table (family ip), in the host's namespace and in each sandbox."""

INGRESS_TABLE = "mini_ingress"
"""The nftables table (family inet) of mini-ingress, in the host's namespace."""

_ID_PART = 8


def bridge_name(network_id: str) -> str:
    return BRIDGE_PREFIX + network_id[:_ID_PART]


def vxlan_name(network_id: str) -> str:
    return VXLAN_PREFIX + network_id[:_ID_PART]


def port_name(task_id: str, index: int) -> str:
    """The host's end of a task's `index`-th attachment."""
    suffix = f".{index}" if index else ""
    return PORT_PREFIX + task_id[:_ID_PART] + suffix


def gateway_port_name(task_id: str) -> str:
    """The host's end of a task's way out."""
    return GATEWAY_PORT_PREFIX + task_id[:_ID_PART]


def mac_of(address: IPv4Address) -> str:
    """02:42 and the four bytes of the address, as Swarm does."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)
