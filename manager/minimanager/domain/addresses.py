"""Subnets cut from pools, addresses taken from subnets, and the numbers that go with them.

The network address, the broadcast address and the gateway (by default the first host address) of a subnet are never
given out.
Addresses are taken in a circle, so that one that was just given back is the last to be used again: caches of it,
anywhere, have then had the longest time to expire.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from minicommon.errors import InvalidArgumentError, ResourceExhaustedError

FIRST_VNI = 4096
"""The first VXLAN network identifier that Swarm gives to an overlay (libnetwork `drivers/overlay`)."""

LAST_VNI = (1 << 24) - 1
"""A VXLAN network identifier has 24 bits (RFC 7348)."""

MIN_SUBNET_SIZE, MAX_SUBNET_SIZE = 8, 29
"""Prefix lengths; a /29 has room for a gateway and five tasks."""


class AddressPool:
    """The addresses of one subnet, or of the part `within` it.

    `used` are taken already, and so is the gateway, by default the first host address. The search begins behind `after`
    and goes up, or `down`.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        used: Iterable[IPv4Address | str],
        *,
        after: IPv4Address | None = None,
        within: IPv4Network | None = None,
        router: IPv4Address | None = None,
        down: bool = False,
    ) -> None:
        self._part = within or subnet
        lowest, highest = int(subnet.network_address) + 1, int(subnet.broadcast_address) - 1
        self._first = max(lowest, int(self._part.network_address))
        self._last = min(highest, int(self._part.broadcast_address))
        own = int(router or gateway(subnet))
        self._size = max(0, self._last - self._first + 1 - self._has(own))
        self._used = {_number(str(address)) for address in used} - {own}
        self._free = self._size - sum(self._first <= number <= self._last for number in self._used)
        self._used.add(own)
        self._step = -1 if down else 1
        start = self._last if down else self._first
        following = int(after) + self._step if after is not None else start
        self._next = following if self._has(following) else start

    def ensure_free(self) -> None:
        """Raises ResourceExhaustedError when `take` would."""
        if self._free <= 0:
            raise ResourceExhaustedError(f"no free address in {self._part}: all {self._size} are in use")

    def take(self) -> IPv4Address:
        """The next free address. Raises ResourceExhaustedError."""
        self.ensure_free()
        while self._next in self._used:
            self._advance()
        taken = self._next
        self._used.add(taken)
        self._free -= 1
        self._advance()
        return IPv4Address(taken)

    def _has(self, number: int) -> bool:
        return self._first <= number <= self._last

    def _advance(self) -> None:
        following = self._next + self._step
        if self._has(following):
            self._next = following
        else:
            self._next = self._first if self._step > 0 else self._last


@lru_cache(maxsize=1 << 18)
def _number(address: str) -> int:
    """The address as a number; remembered, for most of those of a network are the same in the next pass."""
    return int(IPv4Address(address))


def gateway(subnet: IPv4Network) -> IPv4Address:
    """The subnet's first host address."""
    return subnet.network_address + 1


def mac_address(address: IPv4Address) -> str:
    """The MAC that goes with an address: 02:42 and its four bytes, as Docker's."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


def parse_pools(pools: Sequence[str], subnet_size: int) -> tuple[IPv4Network, ...]:
    """The address pools of `swarm init`.

    Raises InvalidArgumentError for what is no IPv4 network, for pools that overlap, and for a size that does not fit.
    """
    if not MIN_SUBNET_SIZE <= subnet_size <= MAX_SUBNET_SIZE:
        raise InvalidArgumentError(
            f"default address pool mask length: must be {MIN_SUBNET_SIZE} to {MAX_SUBNET_SIZE}, not {subnet_size}"
        )
    parsed: list[IPv4Network] = []
    for text in pools:
        pool = _parse_pool(text)
        if pool.prefixlen > subnet_size:
            raise InvalidArgumentError(
                f"default address pool {pool} is smaller than a subnet of /{subnet_size}"
            )
        for other in parsed:
            if pool.overlaps(other):
                raise InvalidArgumentError(f"default address pools {other} and {pool} overlap")
        parsed.append(pool)
    if not parsed:
        raise InvalidArgumentError("default address pool: at least one is needed")
    return tuple(parsed)


def _parse_pool(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"invalid default address pool {text!r}: must be an IPv4 network such as 10.0.0.0/8"
        ) from error


def next_subnet(pools: Sequence[IPv4Network], subnet_size: int, used: Iterable[IPv4Network]) -> IPv4Network:
    """The first subnet of the pools that overlaps none in use: the ingress network's in a new cluster.

    Raises ResourceExhaustedError.
    """
    taken = tuple(used)
    step = 1 << (32 - subnet_size)
    for pool in pools:
        start, end = int(pool.network_address), int(pool.broadcast_address)
        while start + step - 1 <= end:
            candidate = IPv4Network((start, subnet_size))
            blocking = next((each for each in taken if each.overlaps(candidate)), None)
            if blocking is None:
                return candidate
            start = max(start + step, (int(blocking.broadcast_address) + step) // step * step)
    names = ", ".join(str(pool) for pool in pools)
    raise ResourceExhaustedError(f"no free subnet of /{subnet_size} in the default address pools {names}")


def next_vni(used: Iterable[int], *, last: int = LAST_VNI) -> int:
    """The lowest free VXLAN network identifier up to `last`. Raises ResourceExhaustedError."""
    taken = frozenset(used)
    for vni in range(FIRST_VNI, last + 1):
        if vni not in taken:
            return vni
    raise ResourceExhaustedError(f"no free VXLAN network identifier: {FIRST_VNI} to {last} are all in use")
