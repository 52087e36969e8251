"""From what the kernel holds to what it should hold: pure, in an order in which each step is possible.

A device that differs is replaced. The kernel removes what hangs on a device together with it, so that comes anew.
"""

from __future__ import annotations

from miniworker.network.model import (
    Bridge,
    Carrier,
    KernelObject,
    KernelState,
    LinkAddress,
    Neighbor,
    Operation,
    Tunnel,
    Vxlan,
)

_ORDER: tuple[type, ...] = (Carrier, Bridge, Vxlan, LinkAddress, Tunnel, Neighbor)
"""Of making; taking away goes the other way round."""


def delta(wanted: KernelState, observed: KernelState) -> tuple[Operation, ...]:
    """The operations that lead from `observed` to `wanted`; none when they are equal."""
    surplus = observed - wanted
    gone = {name for name in map(device_name, surplus) if name}
    # A tunnel device survives its bridge, but no longer as its port: it is replaced with it. It ends with its carrier.
    orphans = {
        item for item in observed if isinstance(item, Vxlan) and (item.bridge in gone or item.link in gone)
    }
    gone |= {item.name for item in orphans}
    lost = {item for item in observed if not device_name(item) and link_of(item) in gone}
    removals = [item for item in (surplus | orphans) if item not in lost]
    additions = wanted - (observed - surplus - orphans - lost)
    return (
        *(Operation(False, item) for item in sorted(removals, key=_key, reverse=True)),
        *(Operation(True, item) for item in sorted(additions, key=_key)),
    )


def device_name(item: KernelObject) -> str:
    """The name of a device; empty for what hangs on one."""
    return item.name if isinstance(item, Carrier | Bridge | Vxlan) else ""


def link_of(item: KernelObject) -> str:
    """The device that the object is or hangs on."""
    return item.name if isinstance(item, Carrier | Bridge | Vxlan) else item.link


def _key(item: KernelObject) -> tuple[int, KernelObject]:
    return _ORDER.index(type(item)), item
