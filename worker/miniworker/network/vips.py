"""Virtual addresses as one sandbox sees them: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from zlib import crc32

from miniworker.network.api import Attachment, VirtualService


@dataclass(frozen=True, slots=True, order=True)
class Vip:
    """A virtual address, and the tasks in the order in which they are taken in turn."""

    address: IPv4Address
    backends: tuple[IPv4Address, ...]
    """Empty: connections are refused."""


@dataclass(frozen=True, slots=True)
class VipDelta:
    """Each sorted. What changes from no backends to some, or back, is both removed and added."""

    removed: tuple[Vip, ...]
    changed: tuple[Vip, ...]
    added: tuple[Vip, ...]

    @classmethod
    def of(cls, old: Iterable[Vip], new: Iterable[Vip]) -> VipDelta:
        """What leads from `old` to `new`."""
        before = {vip.address: vip for vip in old}
        after = {vip.address: vip for vip in new}
        kept = {
            address for address, vip in after.items() if address in before and _alike(before[address], vip)
        }
        return cls(
            removed=tuple(before[address] for address in sorted(before.keys() - kept)),
            changed=tuple(after[address] for address in sorted(kept) if before[address] != after[address]),
            added=tuple(after[address] for address in sorted(after.keys() - kept)),
        )


def vips_of(attachments: Iterable[Attachment], services: Iterable[VirtualService]) -> frozenset[Vip]:
    """The services of the networks that a task is on.

    Each task begins at another backend: the first connections of many tasks must not all go to the same.
    """
    own = {item.network_id: item.address for item in attachments}
    return frozenset(
        Vip(item.address, _rotated(item.backends, own[item.network_id]))
        for item in services
        if item.network_id in own
    )


def changed_services(
    old: Iterable[VirtualService], new: Iterable[VirtualService]
) -> tuple[frozenset[VirtualService], frozenset[VirtualService]]:
    """(of the old, of the new) those that are not in both.

    Whoever reads assignments keeps the objects of what did not change, of which there are many: those are not compared.
    """
    old, new = tuple(old), tuple(new)
    before, after = set(map(id, old)), set(map(id, new))
    gone = frozenset(item for item in old if id(item) not in after)
    fresh = frozenset(item for item in new if id(item) not in before)
    return gone - fresh, fresh - gone


def removed_backends(
    old: Iterable[Vip], new: Iterable[Vip], *, nobody: IPv4Address
) -> tuple[tuple[IPv4Address, IPv4Address], ...]:
    """(virtual address, backend) of those that get no more connections; `nobody` stands for no backend."""
    left = {(vip.address, backend) for vip in new for backend in vip.backends or (nobody,)}
    had = {(vip.address, backend) for vip in old for backend in vip.backends or (nobody,)}
    return tuple(sorted(had - left))


def _alike(old: Vip, new: Vip) -> bool:
    return bool(old.backends) == bool(new.backends)


def _rotated(backends: tuple[IPv4Address, ...], own: IPv4Address) -> tuple[IPv4Address, ...]:
    if not backends:
        return ()
    seed = own.packed + backends[0].packed + backends[-1].packed
    start = crc32(seed) % len(backends)
    return backends[start:] + backends[:start]
