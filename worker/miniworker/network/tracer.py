"""Follows a packet to a published port: by the rules in the kernel and by its forwarding entries, not by the plan."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from miniworker.network import nft
from miniworker.network.api import Fabric, Hop, Packet, Traced
from miniworker.network.model import Tunnel
from miniworker.network.names import GATEWAY_PORT_PREFIX, INGRESS_TABLE, PORT_PREFIX, TABLE, mac_of
from miniworker.network.observe import Observed, observe, read_addresses
from miniworker.network.packet_walk import LED, PASSED, Rules, Walk
from miniworker.network.ports import port_listener
from miniworker.network.sandboxes import FoundSandbox

_LOCAL_NET = 127
"""First byte of the addresses that never leave a machine."""


def trace(
    packet: Packet, fabric: Fabric, sandboxes: Mapping[str, FoundSandbox], *, dropping: tuple[str, ...]
) -> Traced:
    """In the calling thread's network namespace. Raises NetworkError."""
    own = {address for _, address, _ in read_addresses()}
    ingress, host = Rules(nft.list_table("inet", INGRESS_TABLE)), Rules(nft.list_table("ip", TABLE))
    from_here = packet.client in own or packet.client.packed[0] == _LOCAL_NET
    walk, on_ingress = _walk(packet, ingress, host, from_here=from_here)
    if walk.verdict is PASSED:
        listener = port_listener(packet.protocol, packet.port, packet.destination)
        return Traced("listener" if listener else "closed", walk.path, listener=listener)
    observed = observe()
    nodes = [network.node_address for network in fabric.networks if network.ingress]
    return Traced(
        verdict=walk.verdict,
        rules=walk.path,
        choice=walk.choice,
        targets=tuple(
            reach(address, observed, fabric, sandboxes, port=port) for address, port in walk.targets
        ),
        back_to=nodes[0] if nodes and on_ingress and walk.verdict is LED else None,
        dropping=dropping if walk.verdict is LED else (),
    )


def _walk(packet: Packet, ingress: Rules, host: Rules, *, from_here: bool) -> tuple[Walk, bool]:
    """How far it comes, and whether by the table of ingress ports.

    What the node itself sends does not come in: the rules of ingress ports do not see it, its own sockets do.
    """
    passed: list[str] = []
    if not from_here:
        walk = ingress.walk("prerouting", packet)
        if walk.verdict is not PASSED:
            return walk, True
        passed += walk.path
    walk = host.walk("output" if from_here else "prerouting", packet)
    if walk.verdict is not PASSED:
        return walk, False
    walk = ingress.walk("input", packet)
    if walk.verdict is not PASSED:
        return walk, False
    return Walk(PASSED, path=(*passed, *walk.path)), False


def reach(
    address: IPv4Address,
    observed: Observed,
    fabric: Fabric,
    sandboxes: Mapping[str, FoundSandbox],
    *,
    port: int = 0,
) -> Hop:
    """How the node reaches an address, by what the kernel holds: pure."""
    mac = mac_of(address)
    for task_id, found in sandboxes.items():
        if found.has(address):
            ports = [
                name for name, known in observed.forwarding if known == mac and name.startswith(PORT_PREFIX)
            ]
            device = ports[0] if ports else f"{GATEWAY_PORT_PREFIX}{task_id[:8]}"
            problem = "" if device in observed.links else f"its interface {device} is gone"
            return Hop(address, port, task_id, fabric.node_id, device, problem=problem)
    told = next((item for item in fabric.endpoints if item.address == address), None)
    task_id, node_id = (told.task_id, told.node_id) if told else ("", "")
    for item in observed.state:
        if isinstance(item, Tunnel) and item.mac == mac:
            problem = (
                "" if item.complete else f"the forwarding entry {mac} on {item.link} is there in part only"
            )
            return Hop(address, port, task_id, node_id, item.link, item.vtep, item.via, problem)
    return Hop(address, port, task_id, node_id, problem=f"no forwarding entry leads to {mac}")
